"""Which inspectors a scan runs in the time that it has: those that tell our populations best, cut to what fits."""

import math
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.inversion.frozen import freeze
from gifthorse.training.precision import fast_arithmetic

TIMED = 3
"""Passes that the model is timed with, after a first one."""
SHARE = 0.6
"""Of the budget, what Neural Cleanse's search may take; ABS has the rest."""
# Steps and mini-batches of 32 images a step: what our populations were measured with first, then less.
LADDER = ((80, 4), (80, 2), (80, 1), (40, 1))
_SPREAD_OVER = 16
"""Classes for which two halvings are enough; every doubling takes one more, as long as a part keeps ten steps."""


def inspector(request: str) -> Defense[Any]:
    """Return an inspector, what a request leaves open as in the laptop profile; :class:`RequestError` for others."""
    found = resolve(dataset="digits", defense=request).defense
    if found is None or found.judged_as() != "inspection":
        raise RequestError(
            f"--defense {request}: a scan takes methods that inspect a model ('gifthorse list defenses')"
        )
    return found


def chosen(model: Classifier, images: Images, seconds: float) -> tuple[list[Defense[Any]], list[str], float]:
    """Return the inspectors that fit in so many seconds, what was left out for it, and how long they should take.

    :class:`RequestError` where not even the shortest search fits.
    """
    each = seconds_per_image(model, images)
    steps, batches = _longest(model.classes, SHARE * seconds / each)
    if steps == 0:
        needed = searched(model.classes, *LADDER[-1]) * each / SHARE / 60
        raise RequestError(
            f"{seconds / 60:g} minutes are too few for any search on this model, with {model.classes} classes of "
            f"{'×'.join(map(str, images.shape))} images: --budget {math.ceil(needed * 1.1)} would do"
        )
    cleanse = inspector(f"neural_cleanse[steps={steps},batches={batches},halvings={halvings(model.classes, steps)}]")
    taken = searched(model.classes, steps, batches) * each
    stimulating = inspector("abs")
    wanted = stimulated(stimulating) * each
    if taken + wanted > seconds:
        said = f"abs was left out: it takes about {math.ceil(wanted / 60)} min more than the budget leaves"
        return [cleanse], [said], taken
    return [cleanse, stimulating], [], taken + wanted


def halvings(classes: int, steps: int) -> int:
    """Return how often half of the classes are given up."""
    more = max(math.ceil(math.log2(classes / _SPREAD_OVER)), 0)
    return min(2 + more, max(steps // 10 - 1, 0))


def searched(classes: int, steps: int, batches: int) -> int:
    """Return how many images Neural Cleanse stamps, searching all classes first and half as many in every part."""
    parts = halvings(classes, steps) + 1
    left = [max(math.ceil(classes / (1 << part)), 1) for part in range(parts)]
    return math.ceil(sum(left) * steps / parts) * batches * 32


def stimulated(abs_: Defense[Any]) -> int:
    """Return how many images ABS stamps at most."""
    settings = abs_.to_dict()
    return int(settings["candidates"] * settings["steps"] * settings["batch_size"])


def seconds_per_image(model: Classifier, images: Images) -> float:
    """Return how long one image takes to go through the model and back."""
    frozen = freeze(model)
    count = 512 if model.device.type == "cuda" else 64
    index = torch.arange(count, device=images.device) % len(images)
    pixels = images.take(index).floats().requires_grad_()
    times = []
    for _ in range(1 + TIMED):
        start = time.perf_counter()
        with fast_arithmetic(pixels.device):
            logits = frozen(pixels)
        float(torch.autograd.grad(logits.float().sum(), pixels)[0][0, 0, 0, 0])
        times.append(time.perf_counter() - start)
    return median(times[1:]) / count


def _longest(classes: int, passes: float) -> Sequence[int]:
    """Return steps and mini-batches of the longest search of so many images; zeros where none fits."""
    return next((rung for rung in LADDER if searched(classes, *rung) <= passes), (0, 0))
