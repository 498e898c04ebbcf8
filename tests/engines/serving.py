"""What tests of engines share: models and texts, and what the experts of a trace must be."""

import numpy as np
import pytest

import v4kit
from tests import zoo
from tests.engines.served import VLLM, SGLang, unhurried

BOTH = pytest.mark.parametrize("kind", [VLLM, SGLang])
V4 = "small"
TEXT = "The quick brown fox"


def own(name: str, trace: v4kit.Trace) -> np.ndarray:
    """The experts that the model itself uses for a trace's tokens, sorted."""
    read = unhurried(lambda: zoo.random_model(name).read(trace.tokens["id"].tolist()))
    return np.sort(read.routing["experts"].to_numpy(), axis=-1)


def told(trace: v4kit.Trace) -> np.ndarray:
    """The experts of a trace, sorted."""
    return np.sort(trace.routing["experts"].to_numpy(), axis=-1)


def local(count: int) -> v4kit.Trace:
    """What the model itself writes after the text."""
    return unhurried(lambda: zoo.random_model(V4).generate(TEXT, max_new_tokens=count))
