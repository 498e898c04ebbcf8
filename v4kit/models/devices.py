"""What a model can run on here."""

from __future__ import annotations

import torch


def devices() -> list[str]:
    """Return the GPUs with their memory in GB; without one, the CPU with its threads."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    found = [f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB" for gpu in gpus]
    return found or [f"CPU, {torch.get_num_threads()} threads"]
