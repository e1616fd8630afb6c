"""The store: content-addressed artifacts (safetensors), a JSON record per cell and population, written atomically.

Nothing is ever unpickled. An artifact carries the SHA-256 of its own arrays, so that a truncated or altered file is
noticed and computed anew. Files are written beside their place and moved there in one step, so readers, other
writers and interrupts never see half of one.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gifthorse.core.errors import StoreError
from gifthorse.core.record import Document, Population, Record

log = logging.getLogger("gifthorse")

Arrays = dict[str, np.ndarray]
D = TypeVar("D", bound=Document)
_METADATA = "gifthorse"


class Store:
    """A folder with artifacts and documents; made when first written to.

    ``artifacts/<kind>/<key>.safetensors``, ``records/<id>.json``, ``populations/<id>.json``, and ``answers/``: which
    record answered a request (:mod:`gifthorse.bench.answers`).
    """

    def __init__(self, root: Path):
        self.root = root

    def save_artifact(self, kind: str, key: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Write arrays and a JSON-ready description under a content key."""
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        document = json.dumps({"digest": digest(contiguous), "about": about}, sort_keys=True)
        # One metadata key: safetensors orders several at random, and the same artifact should be the same bytes.
        write_atomically(self._artifact(kind, key), save(contiguous, metadata={_METADATA: document}))

    def load_artifact(self, kind: str, key: str) -> tuple[Arrays, dict[str, Any]] | None:
        """Read what :meth:`save_artifact` wrote; ``None`` where nothing is, or nothing sound (then it says so)."""
        path = self._artifact(kind, key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as file:
                document = json.loads(file.metadata()[_METADATA])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if document["digest"] != digest(arrays):
                raise ValueError("its contents do not match its checksum")
            return arrays, document["about"]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s); computing it anew", path, error)
            return None

    def save_record(self, record: Record) -> None:
        """Write one record."""
        write_atomically(self.record_path(record.id), record.to_json().encode())

    def load_record(self, identity: str) -> Record | None:
        """Read one record; ``None`` where there is nothing, or nothing sound (then it says so)."""
        return _load(self.record_path(identity), Record)

    def records(self) -> Iterator[Record]:
        """Yield every sound record, in the order in which they were made."""
        paths = sorted((self.root / "records").glob("*.json"))
        found = [record for path in paths if (record := self.load_record(path.stem)) is not None]
        yield from sorted(found, key=lambda record: (record.created, record.id))

    def populations(self) -> Iterator[Population]:
        """Yield every sound population, in the order in which they were made."""
        paths = sorted((self.root / "populations").glob("*.json"))
        found = [population for path in paths if (population := self.load_population(path.stem)) is not None]
        yield from sorted(found, key=lambda population: (population.created, population.id))

    def save_population(self, population: Population) -> None:
        """Write one population."""
        write_atomically(self._population(population.id), population.to_json().encode())

    def load_population(self, identity: str) -> Population | None:
        """Read one population; ``None`` where there is nothing, or nothing sound (then it says so)."""
        return _load(self._population(identity), Population)

    def record_path(self, identity: str) -> Path:
        """Return where the record of that id lies, or would."""
        return self.root / "records" / f"{identity}.json"

    def _artifact(self, kind: str, key: str) -> Path:
        return self.root / "artifacts" / kind / f"{key}.safetensors"

    def _population(self, identity: str) -> Path:
        return self.root / "populations" / f"{identity}.json"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, with its folder; :class:`StoreError` where that fails."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise StoreError(
                f"cannot write {path}: {reason}; what was finished is kept, run the same command again to continue"
            ) from error
        raise


def _load(path: Path, document: type[D]) -> D | None:
    if not path.exists():
        return None
    try:
        return document.from_json(path.read_text())
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        log.warning("%s is damaged (%s); computing it anew", path, type(error).__name__)
        return None


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 of names, types, shapes and bytes."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
