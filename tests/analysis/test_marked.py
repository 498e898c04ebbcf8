"""nPMI: loops over the definition, its bounds and null, refusals."""

import math

import numpy as np
import pytest

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, made, used_by
from v4kit.analysis import npmi
from v4kit.errors import InputError

LEARNED = [layer for layer, kind in enumerate(KINDS) if kind == "topk"]


def some(rows=300):
    rng = np.random.default_rng(2)
    return made(rng.integers(0, 20, rows), holes=(3, 77, rows - 1))


def test_it_follows_its_definition(kept) -> None:
    trace = kept(some())
    marker = (trace.tokens["id"] < 5).to_numpy()
    found = npmi(trace, marker, min_count=15)
    for layer in range(len(KINDS)):
        sets = [used_by(trace, row, layer) for row in range(len(trace))]
        n = sum(map(bool, sets))
        marked = sum(bool(used) and marker[row] for row, used in enumerate(sets))
        assert (int(found["n"][layer]), int(found["marked"][layer])) == (n, marked)
        for expert in range(EXPERTS):
            cell = found.sel(layer=layer, expert=expert)
            count = sum(expert in used for used in sets)
            joint = sum(expert in used and marker[row] for row, used in enumerate(sets))
            assert int(cell["joint"]) == joint
            if layer not in LEARNED or not count or 0 < joint < 15:
                assert math.isnan(cell["value"])
                continue
            value = -1.0
            if joint:
                p = joint / n
                value = math.log2(p / (count / n * marked / n)) / -math.log2(p)
            assert float(cell["value"]) == pytest.approx(value, rel=1e-12)
            mean = marked * count / n
            assert float(cell["joint_null_mean"]) == pytest.approx(mean, rel=1e-12)
            spread = marked * count / n * (n - marked) / n * (n - count) / (n - 1)
            assert float(cell["joint_null_std"]) == pytest.approx(math.sqrt(spread), rel=1e-12)


def of_experts(sets):
    experts = np.array(sets)[:, None].repeat(len(KINDS), 1)
    return made(np.zeros(len(sets)), experts=experts)


def test_its_bounds() -> None:
    """Only together: 1. Never: −1. Never used: NaN. Every token, all marked: 1."""
    trace = of_experts([[0, 1, 2]] * 20 + [[3, 1, 4]] * 20)
    found = npmi(trace, np.arange(40) < 20).sel(layer=LEARNED[0])["value"]
    assert float(found[0]) == pytest.approx(1)
    assert float(found[1]) == pytest.approx(0)
    assert float(found[3]) == -1
    assert np.isnan(found[7])
    assert float(npmi(trace, np.ones(40, bool)).sel(layer=LEARNED[0])["value"][1]) == 1


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (np.ones(299, bool), "one boolean for each of the trace's 300 rows"),
        (np.ones(300), "float64 values"),
        (np.zeros(300, bool), "marks no token"),
        ([[True], [True, False]], "one boolean for each"),
        ("wait", "one boolean for each"),
    ],
)
def test_refusals(marker, message) -> None:
    with pytest.raises(InputError, match=message):
        npmi(some(), marker)


def test_slots_are_as_many_as_the_samples_say() -> None:
    assert int(npmi(some(), np.ones(300, bool))["joint"][LEARNED[0]].sum()) == TOP_K * 297
