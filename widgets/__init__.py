"""The interface: views and controls for notebooks, installed as ``v4kit.widgets``."""

__all__: list[str] = []
