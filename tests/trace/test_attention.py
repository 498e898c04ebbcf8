"""What is stored of attention reads the same in memory and from disk, however it was kept."""

from collections import Counter

import numpy as np
import pytest
import xarray as xr

import v4kit
from tests.trace.samples import ATTENDED, HEADS, VIEWS, assert_same, sample
from v4kit.attention import ragged
from v4kit.errors import InputError, TraceError, TraceFormatError
from v4kit.trace import layout, make_trace, reader

ROWS, LAYERS = 40, 4
KEPT = {name: options for name, options in ATTENDED.items() if name != "none"}
MADE = {name: sample(ROWS, layers=LAYERS, **options) for name, options in KEPT.items()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The traces of `MADE`, from disk in many chunks."""
    folder = tmp_path_factory.mktemp("traces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "ROWS", 8)
        patch.setitem(layout._LONG, layout.ELEMENT, 32)
        for name, trace in MADE.items():
            trace.save(folder / name)
    return {name: v4kit.open_trace(folder / name) for name in MADE}


@pytest.fixture
def reads(monkeypatch):
    """How many values of each array of attention were read from disk."""
    counts = Counter()
    real = reader._OnDisk.__getitem__

    def read(self, key):
        values = real(self, key)
        counts[self._path] += values.size
        return values

    monkeypatch.setattr(reader._OnDisk, "__getitem__", read)
    return counts


@pytest.mark.parametrize("attended", KEPT)
def test_shares_add_up_and_sources_lie_before_their_token(attended) -> None:
    trace = MADE[attended]
    found = trace.attention.compute()
    valid = trace.tokens["valid"].to_numpy()
    total = found["mass"].sum("source") + found["rest"] + found["sink"]
    np.testing.assert_allclose(total[valid], 1, atol=1e-6)
    assert np.isnan(found["mass"][~valid]).all()
    assert (found["start"][~valid] == -1).all()
    position = xr.DataArray(trace.tokens["position"].to_numpy(), dims="token")
    assert (found["stop"] <= position + 1).all()
    there = found["kind"] != -1
    for kind, share in ((0, "window"), (1, "compressed")):
        mass = found["mass"].where(there & (found["kind"] == kind), 0).sum("source")
        assert (mass <= found[share] + 1e-6).where(found["sink"].notnull(), other=True).all()
    for layer, (_, view) in enumerate(VIEWS):
        size = (found["stop"] - found["start"]).isel(layer=layer)
        blocks = size.where(found["kind"].isel(layer=layer) == 1)
        assert not (blocks > view.span).any()


def test_the_strongest_of_all_are_those_that_are_kept() -> None:
    """The two forms come of one random matrix, so that either is the other's reference."""
    for full, strongest in (("full", "strongest"), ("full each", "strongest each")):
        whole = MADE[full].attention["mass"].fillna(0).to_numpy()
        best = -np.sort(-whole, axis=-1)[..., :3]
        kept = MADE[strongest].attention["mass"].fillna(0)
        np.testing.assert_allclose(kept, best, atol=1e-7)
        assert kept.sizes.get("head", HEADS) == HEADS


@pytest.mark.parametrize("attended", KEPT)
@pytest.mark.parametrize("key", [slice(None), slice(7, 23), [30, 3, 3, 17], slice(None, None, -3)])
def test_tokens_are_the_same_from_disk(opened, attended, key) -> None:
    made, lazy = MADE[attended][key], opened[attended][key]
    assert_same(lazy, made)
    for options in ({}, {"layers": [2, 0], "tokens": [-1, 0, 2]}, {"tokens": 1, "layers": 3}):
        found = lazy.attention_to_tokens(**options)
        xr.testing.assert_identical(found, made.attention_to_tokens(**options))
        sums = found["window"].sum("position") + found["compressed"].sum("position")
        total = (sums + found["sink"] + found["rest"]).where(found["sink"].notnull(), 1)
        np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("attended", KEPT)
def test_pooled_tokens_are_the_same_from_disk(opened, attended) -> None:
    if "pooling" not in KEPT[attended]:
        with pytest.raises(InputError, match="pooling=True"):
            opened[attended].attention_to_tokens(convention="pooled")
        return
    whole = opened[attended].attention_to_tokens(convention="pooled")
    xr.testing.assert_identical(whole, MADE[attended].attention_to_tokens(convention="pooled"))
    start = int(np.flatnonzero(MADE[attended].tokens["position"] == 0)[-1])
    part = opened[attended][start:].attention_to_tokens(convention="pooled")
    np.testing.assert_array_equal(
        part["compressed"], whole["compressed"][start:, ..., : part.sizes["position"]]
    )
    with pytest.raises(InputError, match="cut off by a slice"):
        opened[attended][start + 3 :].attention_to_tokens(convention="pooled")


@pytest.mark.parametrize("attended", KEPT)
def test_opening_and_looking_read_nothing(opened, reads, tmp_path, attended) -> None:
    again = v4kit.open_trace(MADE[attended].save(tmp_path / "a"))
    for trace in (again, opened[attended], v4kit.concat([opened[attended][5:]] * 2)):
        repr(trace.attention)
        repr(trace[3:9].attention["mass"].isel(layer=1))
    assert not [path for path in reads if path.startswith("attention")]


def test_all_masses_of_a_few_rows_are_read_alone(opened, reads) -> None:
    trace = opened["full"]
    expected = MADE["full"].attention["mass"]
    mass = trace[13:15].attention["mass"][:, 2]
    np.testing.assert_array_equal(mass, expected[13:15, 2, : mass.sizes["source"]])
    masses = {path: count for path, count in reads.items() if "masses" in path}
    assert masses.keys() == {"attention/masses_2"}
    assert masses["attention/masses_2"] <= 2 * 32
    reads.clear()
    trace.attention_to_tokens(13, layers=1)
    assert {path.split("/")[1] for path in reads} == {"masses_1", "sink"}
    assert reads["attention/masses_1"] <= 2 * 32
    assert reads["attention/sink"] <= 2 * 8 * LAYERS


def test_a_block_of_all_masses_is_made_at_once(opened, reads, monkeypatch) -> None:
    monkeypatch.setattr("v4kit.attention.recorded._AT_ONCE", 4 * 10 * 8)
    mass = opened["full"].attention["mass"]
    assert len(mass.chunks[0]) > 4
    np.testing.assert_array_equal(mass[3:5, 1], MADE["full"].attention["mass"][3:5, 1])
    assert reads.keys() == {"attention/masses_1"}
    assert reads["attention/masses_1"] < len(MADE["full"].stored_attention.masses[1].values)


@pytest.mark.parametrize("together", [1, 40, 10**6])
@pytest.mark.parametrize("attended", ["full", "full each"])
def test_rows_in_any_order(opened, monkeypatch, together, attended) -> None:
    """However many masses are read at once, every row gets its own."""
    monkeypatch.setattr(ragged, "_TOGETHER", together)
    rows = np.random.default_rng(0).integers(0, ROWS, 60)
    for layer in range(LAYERS):
        made, lazy = (t.stored_attention.masses[layer] for t in (MADE[attended], opened[attended]))
        parts = [
            made.values[a : a + n * made.heads]
            for a, n in zip(made.starts, made.columns, strict=True)
        ]
        expected = np.concatenate([parts[row] for row in rows])
        np.testing.assert_array_equal(made.take(rows).flat(), expected)
        np.testing.assert_array_equal(lazy.take(rows).flat(), expected)


def test_reading_a_few_rows_far_apart_reads_little(opened, reads, monkeypatch) -> None:
    monkeypatch.setattr(ragged, "_TOGETHER", 1)
    opened["full"][[1, 35]].stored_attention.masses[3].flat()
    assert reads["attention/masses_3"] <= 2 * 32


def arrays_of(trace) -> tuple[dict, dict, list, dict]:
    """What `make_trace` would make the trace of."""
    kept = trace.stored_attention
    return (
        {name: trace.tokens[name] for name in trace.tokens},
        {name: array.to_numpy() for name, array in trace.routing.data_vars.items()},
        {name: array.to_numpy() for name, array in kept.values.data_vars.items()},
        [layer.values for layer in kept.masses],
    )


def test_arrays_that_do_not_fit_are_no_attention() -> None:
    trace = MADE["full each"]
    columns, arrays, kept, masses = arrays_of(trace)
    again = make_trace(columns, arrays, trace.meta, attention=kept, masses=masses)
    assert_same(again, trace)
    wrong = [
        (kept, [flat[:-1] for flat in masses]),
        (kept, [np.append(flat, 0) for flat in masses]),
        (kept, []),
        (kept, masses[1:]),
        ({name: kept[name] for name in kept if name != "sink"}, masses),
        ({**kept, "sink": kept["sink"].astype(np.float64)}, masses),
        ({**kept, "sink": kept["sink"][:, :, :1]}, masses),
        ({**kept, "sink": kept["sink"][:-1]}, masses),
        ({**kept, "pool_own": kept["window"][:, :, 0]}, masses),
    ]
    for attention, flats in wrong:
        with pytest.raises(TraceFormatError):
            make_trace(columns, arrays, trace.meta, attention=attention, masses=flats)


def test_a_trace_without_attention_says_why() -> None:
    with pytest.raises(TraceError, match="it was not recorded"):
        sample(3).attention  # noqa: B018
    trace = sample(3)
    trace.meta["attention"] = {"sources": None, "heads": "mean", "why": "sdpa returns none."}
    with pytest.raises(TraceError, match=r"sdpa returns none\. Record with"):
        trace.attention_to_tokens()
