"""What files and folders hold, as digests: the content decides, and is read only where size or times differ."""

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from gifthorse.core.configuration import file_digest
from gifthorse.core.progress import track

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")

_SEEN: ContextVar[dict[Hashable, Any] | None] = ContextVar("_SEEN", default=None)

T = TypeVar("T")
Stamp = list[int]
"""Size in bytes, and when content and file were last changed, in nanoseconds."""


def home() -> str:
    """Return the user's home folder; ``~`` where there is none."""
    return os.path.expanduser("~")  # noqa: PTH111  # Path raises where nobody has a home


def user_cache() -> Path:
    """Return gifthorse's folder in the user's folder for caches; a relative path where nobody has a home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path(home(), ".cache")) / "gifthorse"


def content_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file's content, in hexadecimal; ``None`` where it cannot be read.

    Of a folder it is that of the names and contents of all images in it and its subfolders; hidden ones are left out,
    links are followed. A name with ``*`` that nothing has stands for the names of all files that match it, so that one
    more is noticed. The user's cache keeps the digests of files, so that only those whose size or times of change
    are others than before are read: the rest costs one call of ``stat`` each, once inside :func:`looking_once`.
    """
    if not path.is_dir():
        if "*" in path.name and not path.exists():
            return _names_digest(path)
        return file_digest(path)
    return seen_once(path, lambda: _folder_digest(path))


def seen_once(key: Hashable, look: Callable[[], T]) -> T:
    """Return what a look at a folder finds, or found before under this key inside :func:`looking_once`."""
    seen = _SEEN.get()
    if seen is None:
        return look()
    if key not in seen:
        seen[key] = look()
    found: T = seen[key]
    return found


@contextmanager
def looking_once() -> Iterator[None]:
    """Look at every folder once inside this block, however often it is asked for."""
    token = _SEEN.set({})
    try:
        yield
    finally:
        _SEEN.reset(token)


def _names_digest(pattern: Path) -> str:
    names = sorted(path.name for path in pattern.parent.glob(pattern.name))
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _folder_digest(path: Path) -> str:
    files, others = _images(path)
    known = _known(path)
    changed = [name for name, stamp in files.items() if known.get(name, [None])[:-1] != stamp]
    fresh = {name: file_digest(path / name) for name in track(changed, f"looking at {path.name}", len(changed))}
    digests = {name: fresh[name] if name in fresh else known[name][-1] for name in files}
    if fresh or known.keys() != files.keys():
        _remember(path, {name: [*stamp, digests[name]] for name, stamp in files.items()})
    return hashlib.sha256(json.dumps([digests, others], sort_keys=True).encode()).hexdigest()


def content_digests(paths: Iterable[Path]) -> dict[str, str | None]:
    """Return the digests of files and folders by path."""
    return {str(path): content_digest(path) for path in paths}


def _images(folder: Path) -> tuple[dict[str, Stamp], dict[str, str]]:
    """Return the images in a folder by name, and what else decides: links to where was looked already, and errors."""
    files: dict[str, Stamp] = {}
    others: dict[str, str] = {}
    about = folder.stat()
    # A link may lead in a circle.
    seen, pending = {(about.st_dev, about.st_ino): ""}, [""]
    while pending:
        inside = pending.pop()
        try:
            with os.scandir(folder / inside) as found:
                entries = sorted((each for each in found if not each.name.startswith(".")), key=lambda each: each.name)
        except OSError as error:
            others[inside] = str(error.strerror)
            continue
        for entry in entries:
            name = inside + entry.name
            try:
                if entry.is_dir():
                    about = entry.stat()
                    first = seen.setdefault((about.st_dev, about.st_ino), name)
                    if first == name:
                        pending.append(f"{name}/")
                    else:
                        others[name] = first
                elif name.lower().endswith(IMAGE_EXTENSIONS) and entry.is_file():
                    about = entry.stat()
                    files[name] = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
            except OSError as error:
                others[name] = str(error.strerror)
    return files, others


def _place(folder: Path) -> Path:
    return user_cache() / "contents" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()}.json"


def _known(folder: Path) -> dict[str, list[int | str | None]]:
    """Return stamp and digest of a folder's images, as they were last seen; nothing where that cannot be told."""
    try:
        seal, _, text = _place(folder).read_text(encoding="utf-8").partition("\n")
        return json.loads(text) if seal == hashlib.sha256(text.encode()).hexdigest() else {}
    except (OSError, UnicodeDecodeError):
        return {}


def _remember(folder: Path, files: dict[str, list[int | str | None]]) -> None:
    place = _place(folder)
    if not place.is_absolute():
        return
    text = json.dumps(files)
    unfinished = place.with_name(f"{uuid4().hex}.part")
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
        unfinished.replace(place)
