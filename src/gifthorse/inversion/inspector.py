"""What detectors that recover triggers share: the views they can work on, the images they hold back, the verdict.

Paper: TrojanZoo, section 4.3, model inspection; the anomaly index is Neural Cleanse's (Wang et al. 2019, section IV-C).
Differs: a fifth of the clean images is held out, so that a recovered trigger's success is not measured on the images
    that it was searched with. A trigger that does not work on these makes no class suspect (:func:`credited`).
"""

from dataclasses import replace

import torch
from torch import Tensor

from gifthorse.core.anomaly import anomaly_indices, norm_readouts
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict, RecoveredTriggers
from gifthorse.core.seeds import generator
from gifthorse.core.views import ModelView
from gifthorse.inversion.engine import reached

HELD_OUT = 0.2
WORKS = 0.1
"""A recovered trigger that sends a smaller share of the held-out images to its class does not work."""


class Inspector(CleanImagesDefense[ModelView]):
    """Scores every class of a model, with some clean images at hand, and may suspect one."""

    family = "inspection"
    view = ModelView

    def skip(self, view: ModelView) -> str | None:
        """Refuse models of which a median deviation says nothing, and images to search on that are none."""
        if view.model.classes < 3:
            return f"an anomaly index needs at least 3 classes; this model has {view.model.classes}"
        return too_few_or_other(view)


def too_few_or_other(view: ModelView) -> str | None:
    """Return one sentence why triggers cannot be searched and measured on these clean images, or ``None``."""
    if len(view.clean) < 2:
        return f"needs clean images, some of them to be held out; there are {len(view.clean)}"
    if view.clean.classes != view.model.classes:
        return f"the clean images are of {view.clean.classes} classes, the model knows {view.model.classes}"
    return None


def hold_out(images: Images, seed: int) -> tuple[Images, Images]:
    """Cut a defender's images into those to search with and those to measure on, at least one of each."""
    order = torch.randperm(len(images), generator=generator(seed, "hold out")).to(images.device)
    count = max(round(HELD_OUT * len(images)), 1)
    return images.take(order[count:]), images.take(order[:count])


def with_success(
    model: Classifier, triggers: RecoveredTriggers, held_out: Images, targets: Tensor | None = None
) -> RecoveredTriggers:
    """Return the triggers with the share of ``held_out`` images of other classes that each sends to its class.

    Zero for a class beside which there are no other images. ``targets (K,)`` are the triggers' classes where they are
    not one per class, in order.
    """
    rates, counts = [], []
    for position, label in enumerate(range(len(triggers.mask)) if targets is None else targets.tolist()):
        others = held_out.take(held_out.labels != label)
        counts.append(len(others))
        if len(others) == 0:
            rates.append(0.0)
            continue
        logits = predict(model, triggers.stamp(others.floats(), position))
        rates.append(float(reached(logits, logits.new_tensor(label, dtype=torch.long)).float().mean()))
    success, tried = (torch.tensor(each, device=held_out.device) for each in (rates, counts))
    return replace(triggers, success=success, held_out=tried)


def credited(scores: Tensor, triggers: RecoveredTriggers) -> Tensor:
    """Return scores ``(K,)`` in which no class gets credit for a trigger that does not work (:data:`WORKS`).

    The rule of all detectors that score triggers: such a class ranks no higher than the lowest whose trigger works,
    and is never suspect (:func:`suspected`). A mask that collapsed is the smallest of all, and reaches nothing. Where
    no trigger works all scores are zero, and nothing stands out.
    """
    works = _works(triggers)
    if not works.any():
        return torch.zeros_like(scores)
    return torch.where(works, scores, scores.clamp_max(scores[works].min()))


def suspected(indices: Tensor, triggers: RecoveredTriggers, threshold: float) -> int | None:
    """Return the class whose index of ``(K,)`` is largest and above the threshold, of those whose trigger works."""
    largest, label = torch.where(_works(triggers), indices, -torch.inf).max(0)
    return int(label) if largest > threshold else None


def _works(triggers: RecoveredTriggers) -> Tensor:
    assert triggers.success is not None
    return triggers.success >= WORKS


def judge_by_size(sizes: Tensor, triggers: RecoveredTriggers, threshold: float) -> ModelVerdict:
    """Return the verdict on trigger sizes ``(K,)``: the class with an abnormally small one, if any, is suspect.

    The triggers come with their success; what does not work counts as :func:`credited` says.
    """
    scores = credited(-sizes, triggers)
    indices = anomaly_indices(scores)
    above = ((indices > threshold) & _works(triggers)).nonzero().flatten().tolist()
    suspect = suspected(indices, triggers, threshold)
    return ModelVerdict(scores, suspect, triggers, norm_readouts(-scores), suspects=tuple(above))


def masked(shown: Tensor) -> RecoveredTriggers:
    """Take masks and patterns apart: ``(K, 1 + C, H, W)``, the mask first."""
    return RecoveredTriggers(shown[:, :1], shown[:, 1:])
