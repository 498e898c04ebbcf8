"""A full disk, a killed process, a taken place: what was there stays, what counts is whole."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import zarr.storage._local as zarr_local

import v4kit
from tests.house.sources import ROOT
from tests.trace.samples import ATTENDED, assert_same, sample
from v4kit.errors import TraceFormatError, TraceWriteError
from v4kit.trace import layout
from v4kit.trace.store import TraceWriter


def listing(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


class Disk:
    """A disk that is full after some writes."""

    def __init__(self, monkeypatch) -> None:
        self.left = self.done = 10**9
        self._monkeypatch = monkeypatch
        for place, name in ((zarr_local, "_put"), (zipfile.ZipFile, "writestr"), (os, "fsync")):
            self._limit(place, name)

    def _limit(self, place, name) -> None:
        real = getattr(place, name)

        def write(*args, **kwargs):
            self.done += 1
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        self._monkeypatch.setattr(place, name, write)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_save_on_a_full_disk(tmp_path, disk) -> None:
    """Whichever write fails, the old file stays and nothing else is left."""
    before = sample(9).save(tmp_path / "a").read_bytes()
    disk.done = 0
    larger = sample(40, seed=1, attention="full")
    larger.save(tmp_path / "b")
    (tmp_path / "b").unlink()
    writes = disk.done
    assert writes > 60
    for left in range(0, writes, 9):
        disk.left = left
        with pytest.raises(TraceWriteError, match=r"No space left on device.*Free space") as caught:
            larger.save(tmp_path / "a")
        assert isinstance(caught.value, OSError)
        disk.left = 10**9
        assert listing(tmp_path) == {"a": before}
    assert_same(v4kit.open_trace(tmp_path / "a"), sample(9))


def test_a_file_that_can_not_be_replaced(tmp_path, monkeypatch) -> None:
    """As on Windows while another process has it open."""
    before = sample(9).save(tmp_path / "a").read_bytes()
    real = Path.replace

    def replace(self, target):
        if Path(target) == tmp_path / "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(TraceWriteError, match="Permission denied"):
        sample(40).save(tmp_path / "a")
    assert listing(tmp_path) == {"a": before}


@pytest.mark.parametrize(
    ("left", "attended"),
    [
        *((left, "none") for left in (0, 1, 2, 3, 5, 8, 13, 21, 30, 40, 50)),
        *((left, "full") for left in (4, 26, 48, 70, 92, 114)),
        *((left, "strongest each") for left in (35, 60, 85, 110)),
    ],
)
def test_a_growing_trace_on_a_full_disk(tmp_path, disk, monkeypatch, left, attended) -> None:
    """What was flushed opens; once there is room, the same writer goes on and nothing is amiss."""
    monkeypatch.setattr(layout, "ROWS", 8)
    monkeypatch.setitem(layout._LONG, layout.ELEMENT, 50)
    trace = sample(60, **ATTENDED[attended])
    with TraceWriter(tmp_path / "a") as writer:
        writer.append(trace[:11])
        writer.flush()
        disk.left = left
        with contextlib.suppress(TraceWriteError):
            writer.append(trace[11:40])
            writer.flush()
        disk.left = 0
        with pytest.raises(TraceWriteError):
            writer.flush()
        disk.left = 10**9
        assert_same(
            v4kit.open_trace(tmp_path / "a"), trace[: len(v4kit.open_trace(tmp_path / "a"))]
        )
        assert len(v4kit.open_trace(tmp_path / "a")) >= 11
        writer.append(trace[writer.rows :])
    assert_same(v4kit.open_trace(tmp_path / "a"), trace)


def test_an_error_of_the_body_keeps_what_was_appended(tmp_path) -> None:
    with contextlib.suppress(KeyError), TraceWriter(tmp_path / "a") as writer:
        writer.append(sample(5))
        raise KeyError
    assert_same(v4kit.open_trace(tmp_path / "a"), sample(5))


@pytest.mark.parametrize("attended", ["strongest", "full"])
def test_an_interrupted_flush_is_as_if_it_had_not_begun(tmp_path, monkeypatch, attended) -> None:
    """Stopped by the user in the middle of its writes; the writer can go on, too."""
    monkeypatch.setitem(layout._LONG, layout.ELEMENT, 50)
    trace = sample(40, **ATTENDED[attended])
    writer = TraceWriter(tmp_path / "a")
    writer.append(trace[:13])
    writer.flush()
    writer.append(trace[13:30])
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_arrays", {**writer._arrays, "attention/window": None})
        with pytest.raises(AttributeError):
            writer.flush()
    assert_same(v4kit.open_trace(tmp_path / "a"), trace[:13])
    writer.append(trace[30:])
    writer.flush()
    assert_same(v4kit.open_trace(tmp_path / "a"), trace)


def test_a_writer_of_nothing_leaves_nothing(tmp_path) -> None:
    with pytest.raises(KeyError), TraceWriter(tmp_path / "a"):
        raise KeyError
    with TraceWriter(tmp_path / "b"):
        pass
    assert not listing(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_writer_of_no_rows_leaves_an_empty_trace(tmp_path) -> None:
    with TraceWriter(tmp_path / "a") as writer:
        writer.append(sample(5)[:0])
    assert_same(v4kit.open_trace(tmp_path / "a"), sample(5)[:0])


def test_before_the_first_flush_a_trace_is_empty(tmp_path) -> None:
    with TraceWriter(tmp_path / "a") as writer:
        with pytest.raises(TraceFormatError):
            v4kit.open_trace(tmp_path / "a")
        writer.append(sample(5))
        assert len(v4kit.open_trace(tmp_path / "a")) == 0


def test_places_that_are_taken(tmp_path) -> None:
    sample(5).save(tmp_path / "file")
    with TraceWriter(tmp_path / "folder") as writer:
        writer.append(sample(5))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    before = listing(tmp_path)
    for name in ("file", "folder", "other"):
        with pytest.raises(TraceWriteError, match="exists already"):
            TraceWriter(tmp_path / name)
    for name in ("folder", "other", ""):
        with pytest.raises(TraceWriteError, match="is a folder"):
            sample(3).save(tmp_path / name)
    assert listing(tmp_path) == before


def test_a_folder_of_a_file_is_no_folder(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TraceWriteError, match="could not be written"):
        sample(3).save(tmp_path / "file" / "a")
    with pytest.raises(TraceWriteError, match="could not be written"):
        TraceWriter(tmp_path / "file" / "a")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_without_permission(tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TraceWriteError, match="Permission denied"):
        sample(3).save(tmp_path / "a")


def test_folders_on_the_way_and_long_names(tmp_path) -> None:
    path = tmp_path / "new" / "ü 漢字" / ("x" * 240 + ".v4trace")
    assert sample(3).save(path) == path
    assert_same(v4kit.open_trace(path), sample(3))
    assert sample(3).save(str(path)) == path


def test_names_that_windows_can_hold(tmp_path) -> None:
    with TraceWriter(tmp_path / "a") as writer:
        writer.append(sample(5))
    for path in (tmp_path / "a").rglob("*"):
        assert not set(path.name) & set('<>:"\\|?*')
        assert path.name.split(".")[0].lower() not in {"con", "nul", "aux", "prn"}
        assert path.name == path.name.lower()


FILL = """
import resource, sys
from pathlib import Path
import v4kit
from tests.trace.samples import sample
from v4kit.trace.store import TraceWriter

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
small, large = sample(10, layers=40), sample(4000, layers=40)
small.save(folder / "file")
small.to_parquet(folder / "parquet")
writer = TraceWriter(folder / "folder")
writer.append(small)
writer.flush()
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

def grow():
    writer.append(large)
    writer.flush()

def save():
    large.save(folder / "file")

def to_parquet():
    large.to_parquet(folder / "parquet")

for write in (save, to_parquet, grow):
    try:
        write()
    except v4kit.errors.TraceWriteError as error:
        print(error)
"""


@pytest.fixture(params=["small disk", "small files"])
def full(request, tmp_path):
    """A folder and a limit: of its disk (as root, where mounting is allowed), or of each file."""
    if request.param == "small files":
        yield tmp_path, 100_000
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    allowed = sys.platform.startswith("linux") and os.geteuid() == 0 and shutil.which("mount")
    if not allowed or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield tmp_path, 0
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limits for the size of files")
def test_a_disk_that_is_really_full(full) -> None:
    folder, limit = full
    command = [sys.executable, "-c", FILL, str(folder), str(limit)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("could not be written") == 3, done.stdout
    small = sample(10, layers=40)
    assert sorted(p.name for p in folder.iterdir()) == ["file", "folder", "parquet"]
    assert sorted(p.name for p in (folder / "parquet").iterdir()) == [
        "routing.parquet",
        "tokens.parquet",
    ]
    assert len(pd.read_parquet(folder / "parquet" / "tokens.parquet")) == 10
    assert_same(v4kit.open_trace(folder / "file"), small)
    assert_same(v4kit.open_trace(folder / "folder"), small)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_writer_leaves_a_shorter_trace(tmp_path) -> None:
    """Killed at any moment, between flushes or in one, all that was flushed opens, and is right."""
    command = [sys.executable, "-m", "tests.trace.killed", str(tmp_path), "25"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    tries = json.loads(done.stdout)
    assert all(opened >= flushed > 0 for flushed, opened in tries), tries
    assert len({opened for _, opened in tries}) > 5, tries
