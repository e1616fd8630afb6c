"""The store: content-addressed artifacts (safetensors), a JSON record per cell and population, written atomically.

Nothing is ever unpickled. An artifact carries the SHA-256 of its kind, key, arrays and description, a document that of
its text, so that a truncated, altered or misplaced file is noticed and computed anew. Files are written in a folder of
the store and moved to their place in one step, so readers, other writers and interrupts never see half of one. What is
being computed is claimed (:mod:`gifthorse.bench.claims`), so that processes that share a store compute everything once.
"""

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gifthorse.bench.claims import claimed, is_gone, is_old, sweep, this_machine
from gifthorse.core.errors import StoreError
from gifthorse.core.record import Document, Population, Record, Review
from gifthorse.core.scan import Scan
from gifthorse.core.seal import sealed

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("gifthorse")

Arrays = dict[str, np.ndarray]
D = TypeVar("D", bound=Document)
_METADATA = "gifthorse"
UNFINISHED = (".tmp", ".part")
"""How files end that are being written, or were when their process died."""
ANEW, LEFT_OUT = "computing it anew", "leaving it out"
"""What becomes of something damaged."""


class Store:
    """A folder with artifacts and documents; made when first written to.

    ``artifacts/<kind>/<key>.safetensors``, ``records/<id>.json``, ``populations/<id>.json``, ``answers/``: which
    record answered a request (:mod:`gifthorse.bench.answers`), ``logs/<id>.log``: the traceback of a failed cell,
    ``reviews/<id>.json``: what a person made of the images that a record's screen flagged,
    ``scans/<id>.json``: what inspectors made of a model that somebody delivered,
    ``claims/``: what is being computed, and ``unfinished/``: what is being written.
    """

    def __init__(self, root: Path):
        self.root = root

    def save_artifact(self, kind: str, key: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Write arrays and a JSON-ready description under a content key."""
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        whole = {"kind": kind, "key": key, "about": json.loads(json.dumps(about))}
        document = json.dumps({**whole, "digest": _digest(whole, contiguous)}, sort_keys=True)
        # One metadata key: safetensors orders several at random, and the same artifact should be the same bytes.
        self.write(self._artifact(kind, key), save(contiguous, metadata={_METADATA: document}))

    def has_artifact(self, kind: str, key: str) -> bool:
        """Tell whether there is an artifact under a key, sound or not."""
        return self._artifact(kind, key).exists()

    def load_artifact(self, kind: str, key: str, remedy: str = ANEW) -> tuple[Arrays, dict[str, Any]] | None:
        """Read what :meth:`save_artifact` wrote; ``None`` where nothing is, or nothing sound (then it says so)."""
        path = self._artifact(kind, key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as file:
                document = json.loads(file.metadata()[_METADATA])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            claimed = document.pop("digest")
            # What an earlier version wrote has a digest of its arrays alone.
            if claimed != (_digest(document, arrays) if "kind" in document else digest(arrays)):
                raise ValueError("its contents do not match its checksum")
            if (document.get("kind", kind), document.get("key", key)) != (kind, key):
                raise ValueError(f"it is {document['kind']}/{document['key']}")
            return arrays, dict(document["about"])
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            _tell_damage(path, str(error) or type(error).__name__, remedy)
            return None

    def evidence(self, identity: str) -> Arrays:
        """Return the arrays behind the record of that id; none where nothing is, or nothing sound."""
        found = self.load_artifact("evidence", identity, LEFT_OUT)
        return found[0] if found else {}

    def save_record(self, record: Record) -> None:
        """Write one record; the log of an earlier failure goes once it is done."""
        self._save(self.record_path(record.id), record)
        if record.status != "failed":
            with suppress(OSError):
                self.log_path(record.id).unlink()

    def save_log(self, identity: str, text: str) -> None:
        """Write what went wrong in a cell."""
        self.write(self.log_path(identity), text.encode(errors="replace"))

    def load_record(self, identity: str) -> Record | None:
        """Read one record; ``None`` where there is nothing, or nothing sound (then it says so)."""
        return _load(self.record_path(identity), Record)

    def records(self) -> Iterator[Record]:
        """Yield every sound record, in the order in which they were made."""
        paths = sorted((self.root / "records").glob("*.json"))
        found = [record for path in paths if (record := _load(path, Record, LEFT_OUT)) is not None]
        yield from sorted(found, key=lambda record: (record.created, record.id))

    def to_frame(self) -> "pd.DataFrame":
        """Return every record as a row of a pandas data frame, with columns such as ``attack.poison_rate``.

        :mod:`gifthorse.core.columns` says what columns are called.
        """
        from gifthorse.bench.query import frame, read_records

        return frame(read_records(self.root).records)

    def populations(self) -> Iterator[Population]:
        """Yield every sound population, in the order in which they were made."""
        paths = sorted((self.root / "populations").glob("*.json"))
        found = [population for path in paths if (population := _load(path, Population, LEFT_OUT)) is not None]
        yield from sorted(found, key=lambda population: (population.created, population.id))

    def save_population(self, population: Population) -> None:
        """Write one population."""
        self._save(self.population_path(population.id), population)

    def load_population(self, identity: str) -> Population | None:
        """Read one population; ``None`` where there is nothing, or nothing sound (then it says so)."""
        return _load(self.population_path(identity), Population)

    def save_review(self, review: Review) -> None:
        """Write what a person decided, in place of an earlier review of the same record."""
        self._save(self.review_path(review.id), review)

    def load_review(self, identity: str) -> Review | None:
        """Read the review of a record; ``None`` where there is nothing, or nothing sound (then it says so)."""
        return _load(self.review_path(identity), Review, "look at the images again")

    def scans(self) -> Iterator[Scan]:
        """Yield every sound scan, in the order in which they were made."""
        paths = sorted((self.root / "scans").glob("*.json"))
        found = [scan for path in paths if (scan := _load(path, Scan, LEFT_OUT)) is not None]
        yield from sorted(found, key=lambda scan: (scan.created, scan.id))

    def save_scan(self, scan: Scan) -> None:
        """Write one scan."""
        self._save(self.scan_path(scan.id), scan)

    def load_scan(self, identity: str) -> Scan | None:
        """Read one scan; ``None`` where there is nothing, or nothing sound (then it says so)."""
        return _load(self.scan_path(identity), Scan)

    def scan_evidence(self, identity: str) -> Arrays:
        """Return the arrays behind the scan of that id; none where nothing is, or nothing sound."""
        found = self.load_artifact("scan", identity, LEFT_OUT)
        return found[0] if found else {}

    def scan_path(self, identity: str) -> Path:
        """Return where the scan of that id lies, or would."""
        return self.root / "scans" / f"{identity}.json"

    def review_path(self, identity: str) -> Path:
        """Return where the review of the record of that id lies, or would."""
        return self.root / "reviews" / f"{identity}.json"

    def record_path(self, identity: str) -> Path:
        """Return where the record of that id lies, or would."""
        return self.root / "records" / f"{identity}.json"

    def log_path(self, identity: str) -> Path:
        """Return where the traceback of the failed cell of that id lies, or would."""
        return self.root / "logs" / f"{identity}.log"

    def claimed(self, kind: str, key: str) -> AbstractContextManager[None]:
        """Compute something inside the block that nobody else computes meanwhile; see :func:`claimed`."""
        return claimed(self.root / "claims", f"{kind}-{key}")

    def sweep(self) -> None:
        """Remove what was being written or claimed by processes of this machine that are no more, or over a day ago."""
        sweep(self.root / "claims")
        for pattern in ("*/*", "artifacts/*/*"):
            for path in self.root.glob(pattern):
                if path.suffix in UNFINISHED and (_is_abandoned(path) or is_old(path)):
                    with suppress(OSError):
                        path.unlink()

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the store whole or not at all; :class:`StoreError` where that fails."""
        write_atomically(path, content, self._unfinished)

    def _save(self, path: Path, document: Document) -> None:
        if path.exists():
            _refuse_newer(path, type(document))
        self.write(path, sealed(document.to_json()).encode())

    @property
    def _unfinished(self) -> Path:
        return self.root / "unfinished"

    def _artifact(self, kind: str, key: str) -> Path:
        return self.root / "artifacts" / kind / f"{key}.safetensors"

    def population_path(self, identity: str) -> Path:
        """Return where the population of that id lies, or would."""
        return self.root / "populations" / f"{identity}.json"


def write_atomically(path: Path, content: bytes, unfinished: Path | None = None) -> None:
    """Write a file whole or not at all, with its folder; :class:`StoreError` where that fails.

    It is written in the folder ``unfinished``, which is of the same file system, or beside its place, under a name that
    tells whose it is.
    """
    temporary = None
    try:
        for folder in filter(None, (path.parent, unfinished)):
            folder.mkdir(parents=True, exist_ok=True)
        owner = f"{this_machine()}+{os.getpid()}+" if unfinished else "."
        # Not a file of tempfile, which nobody else may read: reports are sent, and stores are shared.
        temporary = (unfinished or path.parent) / f"{owner}{secrets.token_hex(8)}.part"
        with temporary.open("xb") as file:
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


def _is_abandoned(path: Path) -> bool:
    """Tell whether the process that wrote a file of ``unfinished/`` was on this machine and is no more."""
    machine, _, process = path.stem.rpartition("+")[0].rpartition("+")
    return process.isdigit() and is_gone(machine, int(process))


def _load(path: Path, document: type[D], remedy: str = ANEW) -> D | None:
    if not path.exists():
        return None
    try:
        found = document.from_json(path.read_text(encoding="utf-8"))
        if found.id != path.stem:
            raise ValueError(f"it is that of {found.id}")
        return found
    except (ValueError, OSError) as error:
        _refuse_newer(path, document)
        said = "it is no such document" if isinstance(error, ValidationError) else str(error)
        _tell_damage(path, said, remedy)
        return None


def _refuse_newer(path: Path, document: type[Document]) -> None:
    """Raise :class:`StoreError` where a newer program wrote a document, which this one would take for damaged."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))["schema"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return
    known = document.model_fields["schema_version"].default
    if isinstance(schema, int) and schema > known:
        raise StoreError(
            f"a newer gifthorse wrote {path}: it has schema {schema}, this one knows {known}; "
            "update gifthorse, or name another --store"
        )


@lru_cache(maxsize=4096)
def _tell_damage(path: Path, reason: str, remedy: str = ANEW) -> None:
    """Warn of a damaged file, once: it is looked at again before it is computed anew."""
    log.warning("%s is damaged (%s); %s", path, reason, remedy)


def _digest(whole: Mapping[str, Any], arrays: Arrays) -> str:
    """Return the SHA-256 of arrays and of a JSON object that says what they are."""
    return hashlib.sha256(f"{json.dumps(whole, sort_keys=True)}\n{digest(arrays)}".encode()).hexdigest()


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 of names, types, shapes and bytes."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
