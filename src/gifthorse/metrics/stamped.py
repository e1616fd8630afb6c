"""What every judge does alike: stamping test images, counting what they became, keeping what applies."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gifthorse.core.classifier import predict
from gifthorse.core.images import Images
from gifthorse.core.record import Counts, Metric
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.core.trojan import Backdoor, Stamped, Trojan
from gifthorse.metrics import functional
from gifthorse.metrics.functional import Counted

PICTURES = 8

Metrics = dict[str, Metric]
Evidence = dict[str, np.ndarray]
"""Arrays behind the numbers: pictures as ``uint8 (N, C, H, W)``, classes as ``int64 (N,)``, scores as floats.

Reports and figures draw them by name.
"""


def with_trigger(logits: Tensor, labels: Tensor, targets: Tensor, stage: str, clean: Tensor | None = None) -> Metrics:
    """Count what stamped images ``(N,)`` became: ``stage`` scopes the names.

    ``clean (N, K)`` are the same model's logits of the same images without a trigger, where these are known.
    """
    found: Metrics = {
        f"{stage}.asr": functional.attack_success_rate(logits, labels, targets),
        f"{stage}.tmc": functional.trojan_confidence(logits, labels, targets),
    }
    if stage in ("attack", "defense"):
        found[f"{stage}.asr_all"] = functional.accuracy(logits, targets)
    if clean is not None:
        found[f"{stage}.asr_restricted"] = functional.restricted_success_rate(logits, clean, labels, targets)
    return found


def finite(values: Tensor, what: str) -> Tensor:
    """Return the values; ``FloatingPointError`` where some are no number or infinite: no metric of them means anything.

    An argmax takes NaN for the first class, and a comparison with it is always false.
    """
    broken = int((~values.isfinite()).sum())
    if broken:
        raise FloatingPointError(f"{what} are not finite: {broken} of {values.numel()}")
    return values


def logits_of(model: nn.Module, images: Images | Tensor, whose: str) -> Tensor:
    """Return the logits ``(N, K)`` that are judged; ``FloatingPointError`` where they are not finite."""
    return finite(predict(model, images), f"the logits of the {whose}")


def stamp_for_judging(backdoor: Backdoor, images: Images) -> Stamped:
    """Return test images stamped ``(N, C, H, W)``, and the class ``(N,)`` that each should get.

    Where a backdoor is random each image has its own draw, the same for every defense.
    """
    random = generator(0, "judge", "stamp", device=images.device)
    return backdoor.stamp(images.floats(), images.labels, random)


def true_targets(targets: Tensor, labels: Tensor) -> list[int]:
    """Return the classes, in order, that stamped images of other classes should get."""
    return sorted(set(targets[targets != labels].tolist()))


def targets_when_judged(backdoor: Backdoor, images: Images) -> list[int]:
    """Return the :func:`true_targets` of :func:`stamp_for_judging`, without stamping anything."""
    random = generator(0, "judge", "stamp", device=images.device)
    conditions = backdoor.goal.draw(images.pixels, images.labels, random)
    return true_targets(backdoor.goal.targets(images.labels, conditions), images.labels)


def shown_in_reports(trojan: Trojan, task: Task) -> Tensor:
    """Choose the first test images worth stamping, to be shown in reports."""
    labels = task.test.labels
    chosen = torch.ones_like(labels) if trojan.backdoor is None else trojan.backdoor.goal.sources(labels)
    return chosen.nonzero().squeeze(1)[:PICTURES]


def on_black_and_white(trigger: Trigger, images: Images) -> Tensor:
    """Return a black and a white image ``(2, C, H, W)`` in [0,1] with the trigger, the same draw on both.

    Together they tell pattern and opacity of whatever is blended in, as two backgrounds do in matting.
    """
    black = torch.zeros(1, *images.shape, device=images.device)
    return torch.cat(
        [
            trigger.stamp(plain, generator(0, "judge", "trigger", device=images.device))
            for plain in (black, torch.ones_like(black))
        ]
    )


def to_array(values: Tensor) -> np.ndarray:
    """Return 8-bit pictures ``(N, C, H, W)``, or classes ``(N,)``, as evidence."""
    return np.ascontiguousarray(values.cpu().numpy())


def named(values: Mapping[str, float | list[float]], stage: str) -> Metrics:
    """Return the values under their names within a stage."""
    return {f"{stage}.{name}": value for name, value in values.items()}


def applicable(metrics: Metrics) -> Metrics:
    """Leave out what does not apply: a mean over nothing is absent, never 0."""
    return {name: value for name, value in metrics.items() if not (isinstance(value, float) and math.isnan(value))}


def counts_of(metrics: Metrics) -> Counts:
    """Return of how many samples metrics are, by name: one count or, as the metric, several; nothing of all others."""
    found: Counts = {}
    for name, value in metrics.items():
        if isinstance(value, Counted):
            found[name] = value.n
        elif isinstance(value, list) and (counted := [each.n for each in value if isinstance(each, Counted)]):
            found[name] = counted
    return found


def with_counts(metrics: Metrics, counts: Counts) -> Metrics:
    """Return metrics that were kept as plain numbers, with what :func:`counts_of` said of them."""
    found = dict(metrics)
    for name, count in counts.items():
        value = metrics[name]
        if isinstance(value, list) and isinstance(count, list):
            found[name] = [Counted(each, n) for each, n in zip(value, count, strict=True)]
        elif not isinstance(value, list) and not isinstance(count, list):
            found[name] = Counted(value, count)
    return found
