"""A damaged or malicious trace is an error of the kit: never a wrong value, never an effect."""

import json
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import v4kit
from tests.trace.samples import ATTENDED, assert_same, sample
from v4kit.errors import TraceError, TraceFormatError, TraceVersionError
from v4kit.trace import layout
from v4kit.trace.store import TraceWriter, save

ROWS = 20
GOOD = {name: sample(ROWS, **ATTENDED[name]) for name in ("none", "strongest each", "full")}
KINDS = st.sampled_from(sorted(GOOD))
GROUPS = {"zarr.json", "tokens/zarr.json", "routing/zarr.json", "attention/zarr.json"}
"""Members that nobody reads, beside the overview."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with good traces as zip and as folder, several chunks each."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "ROWS", 8)
        patch.setitem(layout._LONG, layout.ELEMENT, 40)
        for name, trace in GOOD.items():
            trace.save(folder / f"{name} zip")
            with TraceWriter(folder / f"{name} folder") as writer:
                writer.append(trace)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A good trace as a folder of its own."""
    return Path(shutil.copytree(made / "none folder", tmp_path / "trace"))


def open_whole(path) -> v4kit.Trace:
    trace = v4kit.open_trace(path)
    trace.routing.load()
    if trace.stored_attention is not None:
        trace.stored_attention.load()
        trace.attention_to_tokens()
    return trace


def refused(path, match=None) -> None:
    with pytest.raises(TraceError, match=match) as caught:
        open_whole(path)
    assert str(caught.value).endswith(".")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@settings(deadline=None, max_examples=60)
@given(kind=KINDS, share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short(made, kind, share) -> None:
    data = (made / f"{kind} zip").read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "cut")
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(TraceFormatError):
            v4kit.open_trace(path)


@settings(deadline=None, max_examples=120)
@given(kind=KINDS, share=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_is_an_error_or_harmless(made, kind, share, flip) -> None:
    data = bytearray((made / f"{kind} zip").read_bytes())
    data[int(len(data) * share)] ^= flip
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "flipped")
        path.write_bytes(data)
        try:
            found = open_whole(path)
        except TraceError:
            return
        assert_same(found, GOOD[kind])


@settings(deadline=None, max_examples=100)
@given(
    kind=KINDS,
    which=st.floats(0, 1, exclude_max=True),
    share=st.floats(0, 1),
    flip=st.integers(0, 255),
)
def test_a_file_of_a_folder_cut_or_changed(made, kind, which, share, flip) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(made / f"{kind} folder", Path(scratch, "copy")))
        files = sorted(p for p in copy.rglob("*") if p.is_file())
        victim = files[int(len(files) * which)]
        data = bytearray(victim.read_bytes())
        at = int(len(data) * share)
        if flip and at < len(data):
            data[at] ^= flip
        else:
            del data[at:]
        victim.write_bytes(data)
        try:
            found = open_whole(copy)
        except TraceError:
            return
        found.meta = GOOD[kind].meta  # a changed letter in a name of the meta is beyond us
        if victim.name != "committed.json":
            assert_same(found, GOOD[kind])


@pytest.mark.parametrize("kind", GOOD)
def test_every_member_is_needed(made, tmp_path, kind) -> None:
    with zipfile.ZipFile(made / f"{kind} zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for missing in members.keys() - GROUPS - {"overview.json"}:
        if kind != "none" and not missing.startswith("attention"):
            continue
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            for name in members.keys() - {missing}:
                archive.writestr(name, members[name])
        refused(tmp_path / "a")


@pytest.mark.parametrize("kind", GOOD)
def test_every_file_is_needed(made, tmp_path, kind) -> None:
    copy = Path(shutil.copytree(made / f"{kind} folder", tmp_path / "copy"))
    for file in sorted(p for p in copy.rglob("*") if p.is_file()):
        name = file.relative_to(copy)
        if name.as_posix() in GROUPS or (kind != "none" and name.parts[0] != "attention"):
            continue
        file.rename(tmp_path / "away")
        refused(copy)
        (tmp_path / "away").rename(file)


@pytest.mark.parametrize(
    "content", [b"", b"A text file.\n", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), bytes(1000)]
)
def test_no_trace_at_all(tmp_path, content) -> None:
    (tmp_path / "a.v4trace").write_bytes(content)
    refused(tmp_path / "a.v4trace", "no v4kit trace")


def test_other_things(tmp_path) -> None:
    refused(tmp_path / "nowhere", "There is no trace at")
    refused(tmp_path, "no v4kit trace")
    refused("nul\0byte", "There is no trace at")
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("a.txt", "text")
    refused(tmp_path / "other", "no v4kit trace")
    with zipfile.ZipFile(tmp_path / "json", "w") as archive:
        archive.writestr("committed.json", "{}")
    refused(tmp_path / "json", "does not say so")
    np.savez(tmp_path / "a.npz", experts=np.zeros((2, 2)))
    refused(tmp_path / "a.npz", "no v4kit trace")


@pytest.mark.parametrize(
    "state", [[], None, 3, "x", {}, {"format": "other"}, {"format": "v4trace"}]
)
def test_states_that_are_none(folder, state) -> None:
    (folder / "committed.json").write_text(json.dumps(state))
    refused(folder)


@pytest.mark.parametrize("version", [3, 10**30])
def test_a_newer_version_says_so(folder, version) -> None:
    edit_json(folder / "committed.json", version=version, rows="as it is counted then")
    with pytest.raises(TraceVersionError, match=r"Update v4kit"):
        v4kit.open_trace(folder)


@pytest.mark.parametrize("version", [0, -1, 1.5, "1", None, [1]])
def test_versions_that_are_none(folder, version) -> None:
    edit_json(folder / "committed.json", version=version)
    refused(folder, "version")


@pytest.mark.parametrize("rows", [ROWS + 1, 10**18, -1, 1.0, "20", None, True])
def test_rows_that_are_not_there(folder, rows) -> None:
    edit_json(folder / "committed.json", rows=rows)
    refused(folder, "rows")


@pytest.mark.parametrize("kind", GOOD)
def test_fewer_rows_are_a_shorter_trace(made, tmp_path, kind) -> None:
    folder = Path(shutil.copytree(made / f"{kind} folder", tmp_path / "trace"))
    for rows in (0, 1, 8, ROWS - 1):
        edit_json(folder / "committed.json", rows=rows)
        assert_same(open_whole(folder), GOOD[kind][:rows])


def test_version_1_had_no_attention(folder) -> None:
    state = json.loads((folder / "committed.json").read_text())
    assert state.pop("attention") == []
    (folder / "committed.json").write_text(json.dumps({**state, "version": 1}))
    assert_same(open_whole(folder), sample(ROWS))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [7, 3, 2]},
        {"shape": [ROWS, 4, 2]},
        {"shape": [ROWS, 3]},
        {"shape": [-1, 3, 2]},
        {"shape": ["20", 3, 2]},
        {"shape": 20},
        {"data_type": "int32"},
        {"data_type": "float32"},
        {"data_type": "string"},
        {"data_type": {"name": "null_terminated_bytes", "configuration": {"length_bytes": 8}}},
        {"dimension_names": ["layer", "token", "slot"]},
        {"dimension_names": None},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 3, 1]}}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 3, 2]}}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**12, 3, 2]}}},
        {"chunk_grid": {"name": "rectilinear"}},
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
        {"codecs": [{"name": "bytes"}]},
        {"codecs": [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]},
        {"codecs": [{"name": "numcodecs.pickle"}, {"name": "zstd"}]},
        {"codecs": [{"name": "vlen-utf8"}, {"name": "zstd"}]},
        {"codecs": [{"name": "sharding_indexed", "configuration": {}}]},
        {"codecs": []},
        {"node_type": "group"},
        {"zarr_format": 2},
        {"storage_transformers": [{"name": "evil"}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("array", ["routing/experts"])
def test_arrays_that_no_writer_writes(folder, array, changes) -> None:
    edit_json(folder / array / "zarr.json", **changes)
    refused(folder)


@pytest.mark.parametrize("compressors", [None, zarr.codecs.GzipCodec(), zarr.codecs.BloscCodec()])
def test_sound_arrays_of_other_codecs_are_refused(folder, compressors) -> None:
    place = folder / "tokens" / "id"
    zarr.create_array(
        place,
        data=zarr.open_array(place, mode="r")[:],
        chunks=(8,),
        dimension_names=["token"],
        compressors=compressors,
        overwrite=True,
    )
    refused(folder, "tokens/id is not an array of int32")


def test_sizes_without_bounds_take_no_memory(folder) -> None:
    """Every size that a file names is bounded before anything is made of that size."""
    huge = 10**15
    edit_json(folder / "committed.json", rows=huge)
    for description in folder.glob("*/*/zarr.json"):
        shape = json.loads(description.read_text())["shape"]
        edit_json(description, shape=[huge, *shape[1:]])
    tracemalloc.start()
    refused(folder, "missing")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.parametrize("chunk", [0, 1, 2])
@pytest.mark.parametrize("name", ["experts", "runner_up"])
@pytest.mark.parametrize("value", [8, -2, 32_767])
def test_ids_out_of_range(folder, chunk, name, value) -> None:
    """Opening looks at the first and the last chunk, at the others only their first use."""
    zarr.open_array(folder / "routing" / name, mode="r+")[8 * chunk, 0] = value
    if chunk != 1:
        with pytest.raises(TraceFormatError, match="reach from"):
            v4kit.open_trace(folder)
    refused(folder, "reach from")
    with pytest.raises(TraceFormatError, match="reach from"):
        save(v4kit.open_trace(folder), folder.parent / "copy")
    assert not (folder.parent / "copy").exists()


@pytest.mark.parametrize(
    ("array", "values"),
    [
        ("label", 99),
        ("phase", -1),
        ("text_end", -1),
        ("text_end", 10**12),
        ("text_end", [9, 3, 12]),
    ],
)
def test_token_columns_out_of_range(folder, array, values) -> None:
    zarr.open_array(folder / "tokens" / array, mode="r+")[2:5] = values
    refused(folder, "out of")


def test_text_that_is_none(folder) -> None:
    zarr.open_array(folder / "tokens" / "text_bytes", mode="r+")[0] = 0xFF
    refused(folder)


@pytest.mark.parametrize(
    "codes",
    [None, [], {}, {"label": "abc", "role": [], "phase": []}, {"label": [1], "role": [2]}],
    ids=str,
)
def test_codes_that_are_none(folder, codes) -> None:
    edit_json(folder / "committed.json", codes=codes)
    refused(folder)


@pytest.mark.parametrize("variables", [[], ["weights"], ["experts", "evil"], "experts", [["a"]]])
def test_variables_that_are_none(folder, variables) -> None:
    edit_json(folder / "committed.json", variables=variables)
    refused(folder)


ARCHITECTURE = sample(1).meta["architecture"]
LAYER = ARCHITECTURE["layers"][0]


@pytest.mark.parametrize(
    "meta",
    [
        None,
        [],
        {},
        {"architecture": None},
        {"architecture": {**ARCHITECTURE, "layers": [LAYER] * 5_000}},
        {"architecture": {**ARCHITECTURE, "layers": [LAYER] * 2}},
        {"architecture": {**ARCHITECTURE, "layers": {"routing": "topk"}}},
        {"architecture": {**ARCHITECTURE, "layers": [{"routing": ["topk"], "attention": "csa"}]}},
        {"architecture": {**ARCHITECTURE, "layers": [{"routing": "topk", "attention": 1}] * 3}},
        {"architecture": {**ARCHITECTURE, "n_experts": 10**9}},
        {"architecture": {**ARCHITECTURE, "n_experts": 7.5}},
        {"architecture": {**ARCHITECTURE, "n_experts": "8"}},
        {"architecture": {**ARCHITECTURE, "n_experts": True, "top_k": True}},
        {"architecture": {**ARCHITECTURE, "top_k": 0}},
        {"architecture": {**ARCHITECTURE, "top_k": 9}},
    ],
    ids=lambda meta: str(meta)[:60],
)
def test_metas_that_are_none(folder, meta) -> None:
    edit_json(folder / "committed.json", meta=meta)
    refused(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "1" * 10_000, "NaN", "\xff"])
def test_json_that_is_none(folder, text) -> None:
    (folder / "committed.json").write_text(text, "latin-1")
    refused(folder)


def test_names_that_lead_elsewhere_lead_nowhere(made, tmp_path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(made / "none zip", home / "a")
    with zipfile.ZipFile(home / "a", "a") as archive:
        for name in ("../outside", "/outside", "..\\outside", "routing/../../outside"):
            archive.writestr(name, "x")
    assert_same(open_whole(home / "a"), sample(ROWS))
    assert [p.name for p in tmp_path.rglob("*")] == ["home", "a"]


def test_two_members_of_one_name(made, tmp_path) -> None:
    shutil.copy(made / "none zip", tmp_path / "a")
    with (
        zipfile.ZipFile(tmp_path / "a", "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("committed.json", "{}")
    refused(tmp_path / "a", "one name")


def test_a_compressed_zip_is_not_unpacked(made, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("committed.json", b"[" + b"0," * 10**7 + b"0]")
    refused(tmp_path / "a", "compressed")


def test_opening_runs_nothing(made, tmp_path) -> None:
    """A pickle in the place of a chunk is bytes that do not decode."""
    copy = Path(shutil.copytree(made / "none folder", tmp_path / "trace"))
    target = tmp_path / "ran"
    chunk = copy / "tokens" / "id" / "c" / "0"
    chunk.write_bytes(f"cbuiltins\neval\n(S'open({str(target)!r}, \"w\")'\ntR.".encode())
    refused(copy)
    assert not target.exists()


def test_errors_leave_no_file_open(made, tmp_path) -> None:
    """An interpreter that reports unclosed files has none to report."""
    shutil.copytree(made / "none folder", tmp_path / "folder")
    edit_json(tmp_path / "folder" / "committed.json", rows=ROWS + 1)
    code = f"""if True:
        import gc, v4kit
        for path in ({str(tmp_path / "folder")!r}, {str(made / "none zip")!r}, {__file__!r}):
            try:
                v4kit.open_trace(path).routing["experts"].load()
            except v4kit.V4KitError:
                pass
        gc.collect()
    """
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    root = Path(v4kit.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
