"""What of a kept document was computed elsewhere: another processor, thread count or torch gives other weights.

Imports no torch.
"""

import platform
from collections.abc import Collection
from functools import cache
from importlib import metadata
from pathlib import Path

from gifthorse.core.record import Environment


@cache
def processor() -> str | None:
    """Return the processor's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor()) or None


def differences(environment: Environment, device: str | None, threads: Collection[int]) -> list[str]:
    """Return in words how the machine that computed something differs from this one, as far as that is known.

    ``device`` is that of this machine as torch names it, ``threads`` are the numbers that would be taken; ``None`` and
    none where nobody has said.
    """
    on_cpu = environment.device.startswith("cpu")
    here = metadata.version("torch")
    found = []
    if device is not None and on_cpu != device.startswith("cpu"):
        found.append(f"on {environment.device}, here {device}")
    # On a GPU the processor hardly computes.
    elif on_cpu and environment.cpu is not None and environment.cpu != processor():
        found.append(f"on {environment.cpu}, here {processor() or 'another processor'}")
    if on_cpu and threads and environment.threads not in threads:
        found.append(f"with {_threads(environment.threads)}, here {' or '.join(map(_threads, sorted(threads)))}")
    if _release(environment.torch) != _release(here):
        found.append(f"with torch {environment.torch}, here {here}")
    return found


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _release(version: str) -> str:
    # What follows says how a release was built, and is not told by every build.
    return version.partition("+")[0]
