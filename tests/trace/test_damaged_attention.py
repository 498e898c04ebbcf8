"""Attention that is damaged or malicious is an error of the kit, as all of a trace is."""

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import v4kit
from tests.trace.samples import ATTENDED, sample
from tests.trace.test_damage import edit_json, open_whole, refused
from v4kit.errors import TraceError, TraceFormatError
from v4kit.trace import layout
from v4kit.trace.store import TraceWriter, save

ROWS = 20
NAMES = ("strongest", "strongest each", "full", "full each")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with good traces as folders, several chunks each."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "ROWS", 8)
        patch.setitem(layout._LONG, layout.ELEMENT, 30)
        for name in NAMES:
            with TraceWriter(folder / name) as writer:
                writer.append(sample(ROWS, layers=4, **ATTENDED[name]))
    return folder


@pytest.fixture(params=["strongest each", "full"])
def folder(request, made, tmp_path):
    """A good trace as a folder of its own."""
    return Path(shutil.copytree(made / request.param, tmp_path / "trace"))


@pytest.fixture
def strongest(made, tmp_path):
    """A good trace with the strongest sources of every head."""
    return Path(shutil.copytree(made / "strongest each", tmp_path / "trace"))


@pytest.fixture
def full(made, tmp_path):
    """A good trace with all masses."""
    return Path(shutil.copytree(made / "full", tmp_path / "trace"))


def edit_meta(folder: Path, **changes: object) -> None:
    """Change what the meta says of attention."""
    meta = json.loads((folder / "committed.json").read_text())["meta"]
    edit_json(
        folder / "committed.json", meta={**meta, "attention": {**meta["attention"], **changes}}
    )


def edit_architecture(folder: Path, layer: int | None = None, **changes: object) -> None:
    """Change what the meta says of the model, or of a layer; "gone" takes a key away."""
    meta = json.loads((folder / "committed.json").read_text())["meta"]
    changed = meta["architecture"] if layer is None else meta["architecture"]["layers"][layer]
    changed |= changes
    for name in [name for name, value in changes.items() if value == "gone"]:
        del changed[name]
    edit_json(folder / "committed.json", meta=meta)


def little_memory(folder: Path) -> None:
    """The trace is refused, and nothing large is made on the way."""
    tracemalloc.start()
    refused(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_the_good_ones_are_good(made) -> None:
    for name in NAMES:
        assert open_whole(made / name).stored_attention is not None


@pytest.mark.parametrize(
    "attention", [None, "sink", {"sink": 1}, 3, True, [["sink"]], [None], ["sink", "evil"]], ids=str
)
def test_lists_of_variables_that_are_none(folder, attention) -> None:
    edit_json(folder / "committed.json", attention=attention)
    refused(folder)


@pytest.mark.parametrize(
    "gone", ["sink", "window", "compressed", "rest", "entropy_bits", "pool_own", "pool_next"]
)
def test_variables_that_are_lacking(folder, gone) -> None:
    names = json.loads((folder / "committed.json").read_text())["attention"]
    edit_json(folder / "committed.json", attention=[name for name in names if name != gone])
    refused(folder, gone)


def test_variables_of_another_form(strongest, made, tmp_path) -> None:
    for gone in ("code", "mass"):
        names = json.loads((made / "strongest each" / "committed.json").read_text())["attention"]
        edit_json(strongest / "committed.json", attention=[n for n in names if n != gone])
        refused(strongest, gone)
    full = Path(shutil.copytree(made / "full", tmp_path / "full"))
    shutil.copytree(full / "attention" / "chosen_blocks", full / "attention" / "code")
    names = json.loads((full / "committed.json").read_text())["attention"]
    edit_json(full / "committed.json", attention=[*names, "code"])
    refused(full, "does not belong there")


@pytest.mark.parametrize(
    "changes",
    [
        {"sources": None},
        {"sources": 0},
        {"sources": -3},
        {"sources": 4},
        {"sources": 2**20},
        {"sources": 10**15},
        {"sources": 3.0},
        {"sources": "3"},
        {"sources": "fullest"},
        {"sources": [3]},
        {"sources": {}},
        {"sources": True},
        {"heads": "most"},
        {"heads": 2},
        {"heads": None},
        {"heads": ["each"]},
    ],
    ids=str,
)
def test_recordings_that_are_none(folder, changes) -> None:
    edit_meta(folder, **changes)
    little_memory(folder)


def test_the_other_form(made, tmp_path) -> None:
    for number, (name, sources) in enumerate([("strongest", "full"), ("full", 3)]):
        folder = Path(shutil.copytree(made / name, tmp_path / str(number)))
        edit_meta(folder, sources=sources)
        refused(folder)
    for name, heads in (("strongest", "each"), ("full", "each"), ("full each", "mean")):
        folder = Path(shutil.copytree(made / name, tmp_path / f"{name} as {heads}"))
        edit_meta(folder, heads=heads)
        refused(folder)


@pytest.mark.parametrize("attention", [None, {}, [], "full", 3, {"sources": 3}, {"heads": "each"}])
def test_metas_that_do_not_say_how(folder, attention) -> None:
    meta = json.loads((folder / "committed.json").read_text())["meta"]
    edit_json(folder / "committed.json", meta={**meta, "attention": attention})
    refused(folder, "attention")
    edit_json(folder / "committed.json", attention=[])
    try:
        trace = v4kit.open_trace(folder)
    except TraceFormatError:
        return
    with pytest.raises(TraceError, match="holds no attention"):
        trace.attention  # noqa: B018


@pytest.mark.parametrize(
    ("layer", "name"), [(None, "heads"), (2, "window"), (2, "rate"), (2, "span"), (0, "span")]
)
def test_numbers_that_are_none(folder, layer, name) -> None:
    good = (folder / "committed.json").read_text()
    for value in (-1, 2**20 + 1, 10**30, 1.5, "4", [4], {}, True, "gone"):
        (folder / "committed.json").write_text(good)
        edit_architecture(folder, layer, **{name: value})
        little_memory(folder)


@pytest.mark.parametrize(
    "rate_and_span", [(4, 3), (4, 9), (0, 4), (2**20, 2**20 - 1), (None, None)]
)
def test_blocks_that_can_not_be(folder, rate_and_span) -> None:
    rate, span = rate_and_span
    edit_architecture(folder, 2, rate=rate, span=span)
    refused(folder)


@pytest.mark.parametrize("changes", [{"window": None}, {"window": 2**20}, {"rate": 1, "span": 1}])
def test_views_that_see_more_than_there_are_masses(full, changes) -> None:
    edit_architecture(full, 2, **changes)
    little_memory(full)


@pytest.mark.parametrize("changes", [{"rate": 8, "span": 8}, {"rate": 2**19, "span": 2**20}])
def test_blocks_beyond_the_token(strongest, changes) -> None:
    edit_architecture(strongest, 1, **changes)
    little_memory(strongest)


@pytest.mark.parametrize("heads", [1, 3, 2**20])
def test_other_numbers_of_heads(made, tmp_path, heads) -> None:
    for name in ("strongest each", "full each"):
        folder = Path(shutil.copytree(made / name, tmp_path / name))
        edit_architecture(folder, heads=heads)
        little_memory(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [0]},
        {"shape": [5]},
        {"shape": [10**15]},
        {"shape": [-1]},
        {"shape": [20, 3]},
        {"shape": []},
        {"data_type": "float64"},
        {"data_type": "int32"},
        {"dimension_names": ["byte"]},
        {"dimension_names": ["token"]},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**12]}}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}}},
        {"codecs": [{"name": "numcodecs.pickle"}, {"name": "zstd"}]},
    ],
    ids=str,
)
def test_masses_that_no_writer_writes(full, changes) -> None:
    edit_json(full / "attention" / "masses_1" / "zarr.json", **changes)
    if changes == {"shape": [10**15]}:  # a later flush may have made room for more
        assert len(open_whole(full)) == ROWS
        return
    little_memory(full)


@pytest.mark.parametrize("name", ["code", "mass", "sink", "visible_blocks", "pool_own"])
def test_variables_that_no_writer_writes(strongest, name) -> None:
    description = strongest / "attention" / name / "zarr.json"
    good = description.read_text()
    shape, dims = (json.loads(good)[key] for key in ("shape", "dimension_names"))
    for changes in (
        {"data_type": "int64"},
        {"data_type": "float16"},
        {"dimension_names": dims[::-1]},
        {"dimension_names": dims[:-1]},
        {"dimension_names": None},
        {"shape": shape[:-1]},
        {"shape": [ROWS - 1, *shape[1:]]},
        {"shape": [*shape[:-1], 10**9]},
    ):
        edit_json(description, **changes)
        little_memory(strongest)
        description.write_text(good)
    edit_json(description, shape=[10**15, *shape[1:]])  # a later flush may have made room
    assert len(open_whole(strongest)) == ROWS


@pytest.mark.parametrize("row", [0, 9, ROWS - 1])
@pytest.mark.parametrize("code", ["position + 1", 2**31 - 1, -3, -(2**31), "blocks"])
def test_sources_out_of_range(strongest, row, code) -> None:
    """A source after its token, a block that has not ended, a block in a layer without any."""
    position = int(v4kit.open_trace(strongest).tokens["position"][row])
    layer = 0 if code == -3 else 1
    codes = {"position + 1": position + 1, "blocks": -2 - (position + 1) // 2}
    zarr.open_array(strongest / "attention" / "code", mode="r+")[row, layer, 1, 2] = codes.get(
        code, code
    )
    opened = v4kit.open_trace(strongest)
    with pytest.raises(TraceFormatError, match="code reach from"):
        opened.attention["start"].load()
    with pytest.raises(TraceFormatError, match="code reach from"):
        opened[row].attention["start"][:, layer].load()
    with pytest.raises(TraceFormatError, match="code reach from"):
        opened.attention_to_tokens(row, layers=layer)
    with pytest.raises(TraceFormatError, match="code reach from"):
        save(opened, strongest.parent / "copy")
    assert not (strongest.parent / "copy").exists()


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    row=st.integers(0, ROWS - 1),
    layer=st.integers(0, 3),
)
def test_sources_are_in_range_or_refused(made, tmp_path_factory, data, row, layer) -> None:
    """Whatever code stands there, folding ends in the token's past or in an error of the kit."""
    folder = tmp_path_factory.mktemp("codes") / "trace"
    shutil.copytree(made / "strongest each", folder)
    code = data.draw(st.integers(-12, 12))
    zarr.open_array(folder / "attention" / "code", mode="r+")[row, layer, 0, 0] = code
    trace = v4kit.open_trace(folder)
    try:
        found = trace.attention_to_tokens(row, layers=layer)
    except TraceFormatError:
        return
    position = int(trace.tokens["position"][row])
    assert not found["window"][..., position + 1 :].any()
    assert not found["compressed"][..., position + 1 :].any()


@pytest.mark.parametrize("position", [-1, -(2**31), 2**31 - 1, 10**6])
def test_positions_without_bounds_take_no_memory(made, tmp_path, position) -> None:
    for name in ("full", "full each"):
        folder = Path(shutil.copytree(made / name, tmp_path / name))
        zarr.open_array(folder / "tokens" / "position", mode="r+")[2:5] = position
        little_memory(folder)


def test_sizes_without_bounds_take_no_memory(folder) -> None:
    huge = 10**15
    edit_json(folder / "committed.json", rows=huge)
    for description in folder.glob("*/*/zarr.json"):
        shape = json.loads(description.read_text())["shape"]
        edit_json(description, shape=[huge, *shape[1:]])
    little_memory(folder)


def test_tokens_that_became_valid_have_no_masses(full) -> None:
    zarr.open_array(full / "tokens" / "valid", mode="r+")[:] = np.ones(ROWS, bool)
    refused(full)


def test_reading_attention_runs_nothing(strongest, tmp_path) -> None:
    target = tmp_path / "ran"
    evil = f"cbuiltins\neval\n(S'open({str(target)!r}, \"w\")'\ntR.".encode()
    for chunk in (strongest / "attention").rglob("0"):
        if chunk.is_file():
            chunk.write_bytes(evil)
    refused(strongest)
    assert not target.exists()
