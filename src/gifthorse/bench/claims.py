"""Claims on what is being computed, so that processes that share a store, on one machine or many, compute it once.

A claim is a file that only one process can have made. Its owner touches it while it lives; whoever waits watches
with a clock of its own, so that clocks need not agree, and takes the claim of a dead owner over by making the next
generation. An owner that was only asleep does no harm: what it writes is what its successor writes.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from gifthorse.core.errors import StoreError

HEARTBEAT = 5.0
"""Seconds between two signs of life."""
SILENCE = 60.0
"""Seconds without a sign of life after which an owner counts as dead."""
OLD = 24 * 3600.0
"""Seconds after which whatever was not finished counts as given up, whoever began it."""
POLL = 0.2
"""Seconds between two looks at a claim that somebody else holds."""


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[None]:
    """Hold the claim of that name inside the block, after waiting for whoever holds it.

    What the others were at may be done by then, so whoever gets the claim looks again before computing.
    :class:`StoreError` where the folder cannot be written to.
    """
    claim = _take(folder, name)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(claim, over), daemon=True)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()
        _release(folder, name, claim)


def sweep(folder: Path) -> None:
    """Remove the claims of owners that are known to be gone, or silent for a day, for which nobody waits any more.

    What such an owner had taken over goes with it: its owner may have died before it could say who it was.
    """
    for name in {claim.stem for claim in folder.glob("*.*")}:
        generations = _generations(folder, name)
        gone = [place for place, claim in enumerate(generations, 1) if _is_dead(claim) or is_old(claim)]
        _remove(generations[: max(gone, default=0)])


def _take(folder: Path, name: str) -> Path:
    seen: tuple[Path, int] | None = None
    since = time.monotonic()
    while True:
        held = _generations(folder, name)
        latest = held[-1] if held else None
        if latest is None or _is_dead(latest):
            if (claim := _made(folder, name, latest)) is not None:
                return claim
            continue
        sign = _sign_of_life(latest)
        if sign is not None and seen != (latest, sign):
            seen, since = (latest, sign), time.monotonic()
        elif time.monotonic() - since > SILENCE:
            if (claim := _made(folder, name, latest)) is not None:
                return claim
            continue
        time.sleep(POLL)


def _made(folder: Path, name: str, before: Path | None) -> Path | None:
    """Make the generation after another; ``None`` where somebody else did."""
    claim = folder / f"{name}.{0 if before is None else _generation(before) + 1}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = claim.open("x")
    except OSError as error:
        if isinstance(error, FileExistsError) and folder.is_dir():
            return None
        raise StoreError(f"cannot write {claim}: {error.strerror or error}") from error
    with file:
        json.dump({"machine": this_machine(), "process": os.getpid()}, file)
    return claim


def _release(folder: Path, name: str, claim: Path) -> None:
    _remove(each for each in _generations(folder, name) if _generation(each) <= _generation(claim))


def _remove(claims: Iterable[Path]) -> None:
    # The oldest first: while the latest is there, nobody takes an older one for it.
    for each in claims:
        with suppress(OSError):
            each.unlink()


def _beat(claim: Path, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT):
        with suppress(OSError):
            os.utime(claim)


def _generations(folder: Path, name: str) -> list[Path]:
    """Return the files of a claim, the latest last."""
    found = (path for path in folder.glob(f"{name}.*") if path.suffix[1:].isdigit())
    return sorted(found, key=_generation)


def _generation(claim: Path) -> int:
    return int(claim.suffix[1:])


def _sign_of_life(claim: Path) -> int | None:
    try:
        return claim.stat().st_mtime_ns
    except OSError:
        return None


def _is_dead(claim: Path) -> bool:
    """Tell whether the owner is known to be gone: it was on this machine and is no more."""
    try:
        owner = json.loads(claim.read_text())
        return is_gone(str(owner["machine"]), int(owner["process"]))
    except (OSError, ValueError, KeyError, TypeError):
        # It is being written, or was released just now.
        return False


def is_old(path: Path) -> bool:
    """Tell whether a file was last touched over a day ago."""
    try:
        return time.time() - path.stat().st_mtime > OLD
    except OSError:
        return False


def is_gone(machine: str, process: int) -> bool:
    """Tell whether a process was on this machine and is no more; of other machines nothing is known."""
    if machine != this_machine():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # A process that ended and was not waited for is still listed.
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return False


@cache
def this_machine() -> str:
    """Return a name for where process numbers are unique: the machine since it started, and the container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "-".join(parts)
