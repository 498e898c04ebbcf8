"""What tests of loading share."""

import pytest
from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer


@pytest.fixture
def keeping(monkeypatch) -> None:
    """transformers keeps FP8 and FP4 weights, as if there were a GPU that computes with them."""
    monkeypatch.setattr(FineGrainedFP8HfQuantizer, "validate_environment", lambda *_, **__: None)
