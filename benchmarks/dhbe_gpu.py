"""DHBE at full size: what an iteration takes on a GPU, beside its bare passes, and what the published schedule would.

    python -m benchmarks.dhbe_gpu --out results/dhbe_gpu.json
    python -m benchmarks.dhbe_gpu --out results/dhbe_gpu.json --full

The network is resnet18 for 3×32×32 and ten classes as it is initialised: how long a step takes does not depend on what
is known. Settings are the defaults, 15,000 iterations of five student steps and 256 samples. `python -m benchmarks`
leaves this file out, as it takes minutes, and with `--full`, which distils to the end, perhaps an hour. With `--width`,
`--batch-size` and `--generators` it is small enough for a CPU, where it says nothing of a GPU.

Passes of an iteration, in forward passes F of a batch through the classifier, G and P through the generators of samples
and of patches. A backward pass is two forward ones, or one where it only goes through to the input.

    five student steps   each the teacher once, the student twice and back     35 F   5 G   5 P
    step of samples      student and teacher, and through them                  4 F   3 G
    step of patches      student, and through it                                2 F          3 P
    together                                                                   41 F   8 G   8 P

F is 256 × 1.11 GFLOP, G 256 × 0.23, P next to nothing: 43 F, and 182 PFLOP for the schedule, which is half an hour at a
sustained 100 TFLOP/s. The floor is these passes without losses, optimisers and random places. `host_syncs` is how
often an iteration made the host wait for the GPU: it should be 0.
"""

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.dhbe import CLASSES, Floor
from gifthorse.bench.machine import environment, peak_memory_mb, pick_device, reset_peak_memory, timed
from gifthorse.core.progress import listening
from gifthorse.core.views import DataFreeView
from gifthorse.defenses.sanitization.dhbe import Dhbe, Distillation
from gifthorse.models.resnet import ResNet18
from gifthorse.training.precision import fast_on_gpu

SHAPE = (3, 32, 32)
ROUNDS = 5
"""The timed iterations are cut into so many rounds, ours and the floor in turn."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dhbe_gpu")
    parser.add_argument("--out", type=Path, required=True, help="JSON file that is written")
    parser.add_argument("--iterations", type=int, default=300, help="iterations that are timed")
    parser.add_argument("--warm", type=int, default=30, help="iterations before them that are not")
    parser.add_argument("--width", type=int, default=64, help="channels of the classifier's first stage")
    parser.add_argument("--batch-size", type=int, default=256, help="samples per step")
    parser.add_argument("--generators", type=int, default=64, help="channels of a generator's last maps")
    parser.add_argument("--device", help="the GPU where there is one")
    parser.add_argument("--full", action="store_true", help="carry out the whole schedule as well")
    parser.add_argument("--schedule", type=int, default=15_000, help="iterations of the whole schedule")
    asked = parser.parse_args(arguments)
    device = pick_device(asked.device, deterministic=False)
    settings = Dhbe(iterations=asked.schedule, batch_size=asked.batch_size, width=asked.generators)
    view = DataFreeView(ResNet18(width=asked.width).build(SHAPE, CLASSES, 0).eval().to(device), shape=SHAPE)

    found = measure(view, settings, asked.iterations, asked.warm)
    if asked.full:
        found |= carried_out(view, settings)
    found |= {
        "classifier_width": asked.width,
        "settings": settings.to_dict(),
        "machine": environment(device).model_dump(),
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def measure(view: DataFreeView, settings: Dhbe, iterations: int, warm: int) -> dict[str, Any]:
    """Time warm iterations and the floor in turn, and say what the schedule would take."""
    device, each = view.device, max(iterations // ROUNDS, 1)
    distillation, floor = Distillation(settings, view, 0), Floor(view.model, view.shape, settings)

    def ours(count: int) -> None:
        for _ in range(count):
            distillation.iterate()

    reset_peak_memory(device)
    ours(warm)
    memory = peak_memory_mb(device)
    floor.run(warm)
    rounds = [
        (timed(lambda: ours(each), device)[1] / each, timed(lambda: floor.run(each), device)[1] / each)
        for _ in range(ROUNDS)
    ]
    seconds, bare = (statistics.median(column) for column in zip(*rounds, strict=True))
    with fast_on_gpu(device):
        precision = str(torch.get_autocast_dtype(device.type)) if torch.is_autocast_enabled(device.type) else "float32"
    return {
        "seconds_per_iteration": seconds,
        "floor_seconds_per_iteration": bare,
        "ratio_to_floor": statistics.median(mine / its for mine, its in rounds),
        "rounds": rounds,
        "timed_iterations": each * ROUNDS,
        "predicted_minutes": seconds * settings.iterations / 60,
        "peak_memory_mb": memory,
        "precision": precision.removeprefix("torch."),
        "host_syncs": waits(distillation) if device.type == "cuda" else None,
    }


def waits(distillation: Distillation) -> int:
    """Count how often an iteration makes the host wait for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        distillation.iterate()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def carried_out(view: DataFreeView, settings: Dhbe) -> dict[str, Any]:
    """Distil to the end."""

    def show(_: str, done: int, total: int) -> None:
        if done % max(total // 50, 1) == 0:
            print(f"{done} of {total} iterations", file=sys.stderr)

    with listening(show):
        cleaned, seconds = timed(lambda: settings.defend(view, 0), view.device)
    return {"full_minutes": seconds / 60, **cleaned.findings}


if __name__ == "__main__":
    main()
