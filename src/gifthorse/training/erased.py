"""What whoever erases can say of the result without the truth: whether it still answers as the delivered model did."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel, RecoveredTriggers

SHOWN = 8
"""Generated samples that are handed back to be looked at."""


def erased(
    before: Classifier,
    after: Classifier,
    given: Images | None = None,
    *,
    samples: Tensor | None = None,
    triggered: tuple[Tensor, Tensor] | None = None,
) -> CleanModel:
    """Return ``after`` with what can be seen of it in comparison to ``before``, the delivered model.

    ``given`` are the defender's clean images, ``samples (N, C, H, W)`` pixels of its own making: on either the two
    models agree or do not. ``triggered`` are images with a trigger that the defender found, and the class ``(N,)`` that
    each of them is to get by it.
    """
    findings = {}
    if given is not None and len(given):
        findings["agreement"] = _share(predict(before, given).argmax(1) == predict(after, given).argmax(1))
    if samples is not None:
        findings["agreement_on_samples"] = _share(
            predict(before, samples).argmax(1) == predict(after, samples).argmax(1)
        )
        samples = samples[:SHOWN].clamp(0, 1)
    if triggered is not None and len(triggered[0]):
        pixels, wanted = triggered
        findings["found_asr_before"] = _share(predict(before, pixels).argmax(1) == wanted)
        findings["found_asr_after"] = _share(predict(after, pixels).argmax(1) == wanted)
    return CleanModel(after, findings=findings, samples=samples)


def with_triggers(triggers: RecoveredTriggers, classes: Sequence[int], images: Images) -> tuple[Tensor, Tensor]:
    """Return images of other classes with the trigger recovered for one of ``classes``, and that class ``(N,)``.

    Several classes take turns, so that no image is held more than once.
    """
    stamped, wanted = [], []
    for turn, label in enumerate(classes):
        own = images.take(slice(turn, None, len(classes)))
        others = own.take(own.labels != label)
        stamped.append(triggers.stamp(others.floats(), label))
        wanted.append(torch.full_like(others.labels, label))
    return torch.cat(stamped), torch.cat(wanted)


def _share(right: Tensor) -> float:
    return float(right.to(torch.float64).mean())
