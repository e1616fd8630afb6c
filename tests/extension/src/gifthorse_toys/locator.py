"""Says where in an image the trigger is: a kind of answer that gifthorse has no judge for, so here it is with one.

Paper: none; a toy.
Differs: nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gifthorse import (
    DEFENSES,
    FAMILIES,
    KINDS,
    METRICS,
    Case,
    DataFreeView,
    Defense,
    Family,
    Kind,
    Metric,
    Outcome,
)
from gifthorse.core.metric import FRACTION
from gifthorse.metrics.functional import auroc
from gifthorse.metrics.stamped import Evidence, Metrics, stamp_for_judging


@dataclass(frozen=True, eq=False)
class TriggerMap(Outcome):
    """How suspicious each pixel is; ``locate`` maps float pixels ``(N, C, H, W)`` to ``(N, H, W)``."""

    locate: Callable[[Tensor], Tensor]


def judge(outcome: TriggerMap, case: Case) -> tuple[Metrics, Evidence]:
    """Compare the map of stamped test images with the mask of the trigger, if it has one."""
    backdoor = case.trojan.backdoor
    if backdoor is None or backdoor.trigger.mask is None:
        return {}, {}
    sources = case.task.test.take(backdoor.goal.sources(case.task.test.labels))
    found = outcome.locate(stamp_for_judging(backdoor, sources)[0])
    inside = backdoor.trigger.mask[0].bool().expand_as(found)
    return {"defense.located": auroc(found[~inside], found[inside])}, {}


METRICS.add(Metric("defense.located", "pixels located", "locator", FRACTION, True, "AUROC of the trigger's pixels"))
FAMILIES.add(Family("toy_location", "Location", "Says where the trigger is.", ("defense.located", "seconds.defense")))
KINDS[TriggerMap] = Kind(judge, lambda outcome, pixels: {"map": outcome.locate(pixels)}, ("map",))


@DEFENSES.add
class Locator(Defense[DataFreeView]):
    """Follows the gradient of the predicted class to the pixels."""

    name = "toy_locator"
    paper = "none; a toy"
    family = "toy_location"
    view = DataFreeView

    def defend(self, view: DataFreeView, seed: int) -> TriggerMap:
        """Return the size of the gradient at each pixel."""
        model = view.model.clone()

        def locate(pixels: Tensor) -> Tensor:
            seen = pixels.clone().requires_grad_()
            (slope,) = torch.autograd.grad(model(seen).max(1).values.sum(), [seen])
            return slope.abs().sum(1)

        return TriggerMap(locate)
