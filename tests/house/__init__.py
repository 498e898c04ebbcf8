"""Tests of the house itself: layers, sizes, packaging, texts."""
