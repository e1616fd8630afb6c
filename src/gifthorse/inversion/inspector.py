"""What detectors that recover triggers share: the views they can work on, the images they hold back, the verdict.

Paper: TrojanZoo, section 4.3, model inspection; the anomaly index is Neural Cleanse's (Wang et al. 2019, section IV-C).
Differs: a fifth of the clean images is held out, so that a recovered trigger's success is not measured on the images
    that it was searched with.
"""

import torch
from torch import Tensor

from gifthorse.core.anomaly import anomaly_indices, norm_readouts
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.defense import Defense
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict, RecoveredTriggers
from gifthorse.core.seeds import generator
from gifthorse.core.views import ModelView

HELD_OUT = 0.2
LOOKED_AT = 64


class Inspector(Defense[ModelView]):
    """Scores every class of a model, with some clean images at hand, and may suspect one."""

    family = "inspection"
    view = ModelView

    def skip(self, view: ModelView) -> str | None:
        """Refuse models of which a median deviation says nothing, and images that the model cannot judge."""
        if view.model.classes < 3:
            return f"an anomaly index needs at least 3 classes; this model has {view.model.classes}"
        if len(view.clean) < 2:
            return f"needs clean images, some of them to be held out; there are {len(view.clean)}"
        if view.clean.classes != view.model.classes:
            return f"the clean images are of {view.clean.classes} classes, the model knows {view.model.classes}"
        try:
            logits = predict(view.model, view.clean.take(slice(LOOKED_AT)))
        except RuntimeError as error:
            size = "×".join(map(str, view.clean.shape))
            return f"the model cannot take images of {size} (channels, height, width): {str(error).splitlines()[0]}"
        return None if logits.isfinite().all() else "the model's outputs on clean images are not finite numbers"


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
    rates = []
    for position, label in enumerate(range(len(triggers.mask)) if targets is None else targets.tolist()):
        others = held_out.take(held_out.labels != label)
        reached = predict(model, triggers.stamp(others.floats(), position)).argmax(1) == label if len(others) else None
        rates.append(0.0 if reached is None else float(reached.float().mean()))
    success = torch.tensor(rates, device=held_out.device)
    return RecoveredTriggers(triggers.mask, triggers.pattern, triggers.perturbation, success)


def judge_by_size(sizes: Tensor, triggers: RecoveredTriggers, threshold: float) -> ModelVerdict:
    """Return the verdict on trigger sizes ``(K,)``: the class with an abnormally small one, if any, is suspect."""
    indices = anomaly_indices(-sizes)
    suspect = int(indices.argmax()) if indices.max() > threshold else None
    return ModelVerdict(-sizes, suspect, triggers, norm_readouts(sizes))


def masked(shown: Tensor) -> RecoveredTriggers:
    """Take masks and patterns apart: ``(K, 1 + C, H, W)``, the mask first."""
    return RecoveredTriggers(shown[:, :1], shown[:, 1:])
