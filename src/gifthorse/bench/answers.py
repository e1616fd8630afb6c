"""Answers found again without importing torch: kept under what was asked and the code that works it out.

What was asked for again, of the same code, is answered as it was the first time. Anything else, a file that cannot be
read or is damaged included, is as if nothing had been kept.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from gifthorse.bench.store import Store, write_atomically
from gifthorse.core.configuration import entry_points, file_digest, fingerprint, package_places, root_of
from gifthorse.core.contents import content_digests, home, user_cache
from gifthorse.core.errors import StoreError
from gifthorse.core.record import Document, Population, Record

D = TypeVar("D", bound=Document)


def code_digest(plugins: Iterable[Path] = ()) -> str | None:
    """Return the SHA-256 of all files of gifthorse, of the packages that add to it and of plugins, and of versions.

    ``None`` where nothing may be kept: a package's files are not to be seen, a plugin cannot be read, or torch is
    loaded already; then there is nothing to gain, and whoever loaded it may have listed a method of their own.
    """
    if "torch" in sys.modules:
        return None
    entries = entry_points()
    added = sorted((each.group, each.value, str(each.dist and (each.dist.name, each.dist.version))) for each in entries)
    packages = ("gifthorse", *sorted({root_of(each) for each in entries}))
    named = [(str(path.resolve()), file_digest(path)) for path in plugins]
    try:
        files = [_files(package) for package in packages]
    except OSError:
        return None
    if not all(files) or any(digest is None for _, digest in named):
        return None
    versions = sys.version, metadata.version("gifthorse"), metadata.version("pydantic")
    return hashlib.sha256(repr((versions, added, files, named)).encode()).hexdigest()


def _files(package: str) -> list[tuple[str, str]]:
    """Return the name and digest of every file of a package; nothing where it is not in files."""
    roots = package_places(package)
    inside = [(root, path) for root in roots for path in (root.rglob("*") if root.is_dir() else [root])]
    return sorted(
        (str(path.relative_to(root.parent)), str(file_digest(path)))
        for root, path in inside
        if path.is_file() and path.parent.name != "__pycache__"
    )


def kept_answer(
    store: Store, request: Mapping[str, Any], code: str | None, load: Callable[[str], D | None]
) -> D | None:
    """Return the document that a request was answered with, where it still lies in the store as it was."""
    identity = recall(_place(store, request), code)
    return None if identity is None else load(identity)


def keep_answer(
    store: Store,
    request: Mapping[str, Any],
    code: str | None,
    answer: Record | Population,
    files: Mapping[str, str | None],
) -> None:
    """Keep what answers a request; ``files`` are the digests of what decided it, from before it was run.

    A cell that failed, or a population with one, is no answer: it is tried again.
    """
    if isinstance(answer, Record):
        failed, path = answer.status == "failed", store.record_path(answer.id)
    else:
        failed, path = any(each.status == "failed" for each in answer.left_out), store.population_path(answer.id)
    if not failed:
        keep(_place(store, request), code, answer.id, {**files, **content_digests([path])}, store.write)


def _place(store: Store, request: Mapping[str, Any]) -> Path:
    # A path in a request may begin with the home folder.
    return store.root / "answers" / f"{fingerprint({**request, 'home': home()})}.json"


def listing_place(plugins: Sequence[Path] = ()) -> Path:
    """Return the file that keeps what ``gifthorse list`` shows with some plugins: in the user's folder for caches."""
    if not plugins:
        return user_cache() / "listing.json"
    return user_cache() / "listings" / f"{fingerprint({'plugins': [str(path.resolve()) for path in plugins]})}.json"


def keep(
    path: Path,
    code: str | None,
    answer: Any,
    files: Mapping[str, str | None],
    write: Callable[[Path, bytes], None] = write_atomically,
) -> None:
    """Keep a JSON-ready answer of some code and some files; where it cannot be written, nothing is."""
    if code is not None:
        text = json.dumps({"answer": answer, "files": files})
        with suppress(StoreError):
            write(path, f"{_seal(code, text)}\n{text}".encode())


def recall(path: Path, code: str | None) -> Any:
    """Return the answer kept at a path; ``None`` where there is none, code or files are others, or it is damaged."""
    try:
        seal, _, text = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if code is None or seal != _seal(code, text):
        return None
    kept = json.loads(text)
    return kept["answer"] if kept["files"] == content_digests(map(Path, kept["files"])) else None


def _seal(code: str, text: str) -> str:
    return hashlib.sha256(f"{code}\n{text}".encode()).hexdigest()
