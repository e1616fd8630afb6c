"""Commands that are killed at random moments, and what is left of a store."""

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from gifthorse.bench.store import Store, digest
from terminal import gifthorse_begun

MODELS = ("benign", "twin", "attack_prepared", "trojan", "prepared")
TIMES = {"seconds", "created", "peak_memory_mb", "environment"}
STEPS = ("half", "unsynced", "unmoved", "moved", "claimed")
"""Where a write is cut short: half of a file is there, all of it, it is not yet in its place, it just is; a claim is
there and does not say whose it is."""

IMPATIENT = """
from gifthorse.bench import claims

# Nobody says whose a claim without content is: it is waited for.
claims.SILENCE = 0.3
"""
DYING = """
import json, os, signal
from pathlib import Path

left = {number}

def die_at_last():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def fsync(file, sync=os.fsync):
    if {step!r} == "half":
        if left == 1:
            os.ftruncate(file, os.fstat(file).st_size // 2)
        die_at_last()
    elif {step!r} == "unsynced":
        die_at_last()
    sync(file)

def replace(path, place, move=Path.replace):
    if {step!r} == "unmoved":
        die_at_last()
    move(path, place)
    if {step!r} == "moved":
        die_at_last()

def dump(document, file, write=json.dump):
    if {step!r} == "claimed" and ".part" not in file.name:
        die_at_last()
    write(document, file)

os.fsync, Path.replace, json.dump = fsync, replace, dump
"""


@dataclass
class Disturbances:
    """Runs of a command in a folder, killed by a seed's luck: inside of writes, or after some seconds."""

    folder: Path
    arguments: Sequence[str]
    luck: random.Random
    kills: int = 0
    inside: int = 0
    first: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Every model as it was when it was first seen."""

    @property
    def store(self) -> Store:
        return Store(self.folder / "gifthorse-runs")

    def once(self, seconds: float, writes: int) -> bool:
        """Run the command and kill it, unless it ends before; whether it was killed."""
        within = self.luck.random() < 0.5
        before = DYING.format(step=self.luck.choice(STEPS), number=self.luck.randint(1, writes)) if within else ""
        process = self._begun(before)
        process.join(300 if within else self.luck.uniform(0, seconds))
        if process.is_alive():
            process.kill()
            process.join()
        killed = process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0, self._errors.read_text()
        self.kills += killed
        self.inside += killed and within
        self.look()
        return killed

    def finish(self) -> float:
        """Run the command to its end; return its wall time in seconds."""
        began = time.monotonic()
        process = self._begun()
        process.join(300)
        assert process.exitcode == 0, self._errors.read_text()
        self.look()
        return time.monotonic() - began

    @property
    def _errors(self) -> Path:
        return self.folder / "err.txt"

    def _begun(self, before: str = "") -> ForkServerProcess:
        self.folder.mkdir(exist_ok=True)
        paths = [self.folder / "out.txt", self._errors]
        return gifthorse_begun(*self.arguments, cwd=self.folder, paths=paths, before=IMPATIENT + before)

    def look(self) -> None:
        """Notice what is there; a model that is there is never written again."""
        now = {
            path: (path.stat().st_ino, path.stat().st_mtime_ns)
            for kind in MODELS
            for path in self.store.root.glob(f"artifacts/{kind}/*")
        }
        assert now == {**now, **self.first}
        self.first = now


def contents(store: Store) -> dict[str, Any]:
    """Return all that a store holds, but for times: documents as they are, artifacts by their arrays' bytes."""
    found: dict[str, Any] = {}
    for kind, documents in (("records", store.records()), ("populations", store.populations())):
        found |= {f"{kind}/{each.id}": each.model_dump(exclude=TIMES) for each in documents}
    for path in store.root.glob("artifacts/*/*"):
        loaded = store.load_artifact(path.parent.name, path.stem)
        assert loaded is not None, path
        arrays, about = loaded
        found[f"{path.parent.name}/{path.stem}"] = digest(arrays), {**about, "seconds": None}
    return found


def leftovers(store: Store) -> list[str]:
    """Return what a run that ended has no reason to leave."""
    found = [path for path in store.root.rglob("*") if path.suffix in (".part", ".tmp")]
    return [str(path) for path in (*found, *(store.root / "claims").glob("*"))]
