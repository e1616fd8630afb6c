"""The machine that cells are run on: which device, what it is, how long something took, how much memory it needed."""

import platform
import resource
import subprocess
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from gifthorse.bench.elsewhere import processor
from gifthorse.core.errors import RequestError
from gifthorse.core.record import Environment

T = TypeVar("T")


def pick_device(name: str | None = None, *, deterministic: bool = True) -> torch.device:
    """Return the named device, or the GPU where there is one, and make its arithmetic repeatable, or the fastest."""
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device cuda: this machine has no usable CUDA device; leave --device out for the CPU")
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    return device


def environment(device: torch.device) -> Environment:
    """Describe this machine and this checkout."""
    commit, dirty = _revision()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
    return Environment(
        gifthorse=metadata.version("gifthorse"),
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        torch=torch.__version__,
        device=name,
        threads=torch.get_num_threads(),
        torchvision=metadata.version("torchvision"),
        numpy=metadata.version("numpy"),
        scikit_learn=metadata.version("scikit-learn"),
        cpu=processor(),
        system=f"{platform.system()} {platform.release()}",
        deterministic=torch.backends.cudnn.deterministic if device.type == "cuda" else None,
    )


@cache
def _revision() -> tuple[str | None, bool | None]:
    """Return the commit of the checkout that this code runs from, and whether it was edited; none when installed."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None, None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip())


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Do the work; return its result and the wall time in seconds until the device had finished it, and it alone."""
    _finish(device)
    start = time.perf_counter()
    result = work()
    _finish(device)
    return result, time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Times a function of batches ``(N, ...)`` while others call it."""

    def __init__(self, device: torch.device):
        self.device = device
        self._calls: list[tuple[int, float]] = []

    def watch(self, respond: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the function, timed."""

        def watched(batch: Tensor) -> Tensor:
            answer, seconds = timed(lambda: respond(batch), self.device)
            self._calls.append((len(batch), seconds))
            return answer

        return watched

    @property
    def seconds_per_input(self) -> float | None:
        """Wall time per input, warm: the first call does not count where others followed; ``None`` without any."""
        warm = self._calls[1:] or self._calls
        inputs = sum(count for count, _ in warm)
        return sum(seconds for _, seconds in warm) / inputs if inputs else None


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak of the GPU's memory so far; a process without one keeps its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> int:
    """Return the peak of the GPU's memory, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
