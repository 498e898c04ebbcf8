"""Rows that wait and blocks that fill: what is kept does not depend on when it is asked for."""

import numpy as np
import pytest
import torch

from tests import zoo
from tests.trace.samples import assert_same
from v4kit import Record
from v4kit.recording.buffers import BLOCK, Rows


@pytest.mark.parametrize("sizes", [(1,) * 5, (BLOCK,), (BLOCK - 1, 1, 1), (3, 2 * BLOCK, 1)])
def test_rows_come_back(sizes) -> None:
    values = torch.arange(sum(sizes) * 2).reshape(-1, 2)
    rows = Rows()
    for part in values.split(sizes):
        rows.append({"a": part, "b": part.float()})
        np.testing.assert_array_equal(rows.last("a"), part[-1])
    assert len(rows) == len(values)
    np.testing.assert_array_equal(rows.arrays()["a"], values)
    np.testing.assert_array_equal(rows.arrays()["b"], values.float())


def test_an_append_that_broke_off_is_written_over() -> None:
    rows, values = Rows(), torch.arange(4.0 * BLOCK)
    rows.append({"a": values[:100]})
    with pytest.raises(TypeError):
        rows.append({"a": values[100 : 3 * BLOCK], "b": None})
    rows.append({"a": values[100:]})
    np.testing.assert_array_equal(rows.arrays()["a"], values)


@pytest.mark.parametrize("routing", ["ids", "scores", "full"])
def test_asking_after_every_step_changes_nothing(routing) -> None:
    """Short passes are reduced together unless someone looks; both give the same trace."""
    model, record = zoo.random_model("small"), Record(routing=routing)
    prompt = list(range(20, 50))
    stream = model.stream(prompt, max_new_tokens=150, seed=1, temperature=1.0, record=record)
    steps = [(step.experts, stream.trace.routing["experts"][step.row]) for step in stream]
    for experts, row in steps:
        np.testing.assert_array_equal(experts, row)
    whole = model.generate(prompt, max_new_tokens=150, seed=1, temperature=1.0, record=record)
    # Sums over blocks that are padded to another width may round differently.
    assert_same(whole, stream.trace, rounding=1e-6)
