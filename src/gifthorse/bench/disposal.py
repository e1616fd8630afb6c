"""What a store can do without: the files of records that nobody wants, and files that no record needs.

Imports no torch.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gifthorse.bench.query import StoredRecords
from gifthorse.bench.store import UNFINISHED, Store
from gifthorse.core.errors import StoreError
from gifthorse.core.record import Record


@dataclass(frozen=True)
class Piece:
    """A file of a store: what it is, where it lies, its size in bytes, and when it was written, in Unix time."""

    kind: str
    path: Path
    size: int
    written: float


@dataclass(frozen=True)
class Garbage:
    """The files that no record is known to need.

    ``useless`` can go. ``recent`` were written a moment ago: the record that needs them may be on its way.
    ``doubtful`` may be needed by the ``silent`` records that do not name their artifacts, and by damaged ones.
    """

    useless: list[Piece]
    recent: list[Piece]
    doubtful: list[Piece]
    silent: int


def find_garbage(store: Store, found: StoredRecords, age: float) -> Garbage:
    """Return what no record of a store needs; what was written in the last ``age`` seconds is recent."""
    needed = {key for record in found.records for key in (record.artifacts or {}).items()}
    present = {record.id for record in found.records} | {path.stem for path in found.damaged}
    documents = present | {path.stem for path in (store.root / "populations").glob("*.json")}
    silent = sum(record.artifacts is None for record in found.records) + len(found.damaged)
    garbage = Garbage([], [], [], silent)
    newest = time.time() - age
    for piece in _pieces(store):
        key = piece.path.stem
        if piece.kind == "evidence":
            wanted, told = key in present, True
        elif piece.kind == "scan":
            wanted, told = store.scan_path(key).exists(), True
        elif piece.kind == "answers":
            wanted, told = _answer(piece.path) in documents, True
        else:
            wanted, told = (piece.kind, key) in needed, not silent or piece.kind == "unfinished"
        if not wanted:
            part = garbage.recent if piece.written > newest else garbage.useless if told else garbage.doubtful
            part.append(piece)
    return garbage


def pieces_of(store: Store, record: Record) -> list[Piece]:
    """Return the files that are a record's alone: itself, the evidence behind it, and what a person made of that."""
    evidence = store.root / "artifacts" / "evidence" / f"{record.id}.safetensors"
    paths = {
        "record": store.record_path(record.id),
        "evidence": evidence,
        "log": store.log_path(record.id),
        "review": store.review_path(record.id),
    }
    return [_piece(kind, path) for kind, path in paths.items() if path.exists()]


def pieces_of_scan(store: Store, identity: str) -> list[Piece]:
    """Return the files of a scan: itself, and the pictures behind it."""
    paths = {"scan": store.scan_path(identity), "pictures": store.root / "artifacts/scan" / f"{identity}.safetensors"}
    return [_piece(kind, path) for kind, path in paths.items() if path.exists()]


def artifacts(store: Store) -> list[Piece]:
    """Return every artifact of a store, by kind."""
    return [_piece(path.parent.name, path) for path in sorted((store.root / "artifacts").glob("*/*.safetensors"))]


def remove(pieces: Iterable[Piece]) -> None:
    """Remove files; one that is gone already does not matter, :class:`StoreError` where one cannot be removed."""
    for piece in pieces:
        try:
            piece.path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {piece.path}: {error.strerror or error}") from error


def _pieces(store: Store) -> Iterator[Piece]:
    """Yield every file that is there for the sake of others."""
    yield from artifacts(store)
    for path in sorted((store.root / "answers").glob("*.json")):
        yield _piece("answers", path)
    for path in sorted(store.root.rglob("*")):
        if path.suffix in UNFINISHED and path.is_file():
            yield _piece("unfinished", path)


def _piece(kind: str, path: Path) -> Piece:
    about = path.stat()
    return Piece(kind, path, about.st_size, about.st_mtime)


def _answer(path: Path) -> str | None:
    """Return the id of the document that a kept answer leads to; ``None`` where it cannot be read."""
    try:
        return str(json.loads(path.read_text().splitlines()[-1])["answer"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
