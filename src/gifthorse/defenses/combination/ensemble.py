"""Ensemble: several filters of inputs, or several detectors, decide together.

Paper: none has one; TrojanZoo, section 6.5, leaves the combination of defenses to be studied.
Differs: nothing. Scores of different filters have different units, so each is replaced by its rank among its scores of
    clean images that no member has seen; an input's score is the mean rank, or the largest (any), and the threshold is
    the quantile of that on the same images: the false positive rate is the ensemble's, not its members'. Detectors are
    put together by the anomaly indices of their class scores, which have one unit; how many false alarms that gives is
    known on a population alone, so a single model is flagged by a fixed threshold.
"""

import math
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gifthorse.core.anomaly import anomaly_indices
from gifthorse.core.combination import CombinedDefense
from gifthorse.core.defense import Defense, outcome_of
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.images import Images
from gifthorse.core.outcomes import InputScreen, ModelVerdict, Outcome
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import Materials, ModelView

KINDS = (InputScreen, ModelVerdict)


class Ensemble(CombinedDefense[ModelView]):
    """Puts filters of inputs, or detectors, together: by their mean, or by whichever is most suspicious."""

    name = "ensemble"
    paper = "none; TrojanZoo, section 6.5, leaves it to be studied"
    variants = (
        "ensemble[combine=any]",
        "ensemble[defenses=[neural_cleanse[reference=2],tabor]]",
    )
    view = ModelView

    defenses: tuple[Defense[Any], ...] = Field(
        ("strip", "reconstruction_filter"),  # type: ignore[arg-type]
        min_length=2,
        description="all filters, or all detectors",
    )
    combine: Literal["mean", "any"] = Field("mean", description="mean: of their ranks or indices; any: the largest")
    fpr: float = Field(0.05, gt=0, lt=1, description="false positive rate of all filters together")
    held_out: float = Field(0.5, gt=0, lt=1, description="share of the clean images that filters are ranked on")
    anomaly_threshold: float = Field(2.0, gt=0, description="index from which detectors suspect a class")

    @model_validator(mode="after")
    def _alike(self) -> Self:
        """Refuse members that answer different questions."""
        answers = {defense.name: outcome_of(type(defense)) for defense in self.defenses}
        if not any(all(each is not None and issubclass(each, kind) for each in answers.values()) for kind in KINDS):
            raise ValueError(f"its defenses are all filters of inputs or all detectors, not {', '.join(answers)}")
        return self

    def judged_as(self) -> str:
        """Return the family of its members."""
        return self.defenses[0].judged_as()

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        """Let each prepare what it needs, from images that filters are not ranked on."""
        shown = self._cut(materials.clean)[0] if self._filters else materials.clean
        return super().prepare(replace(materials, clean=shown), seed)

    def preparation(self) -> dict[str, Any] | None:
        """Return what decides it, the share of the images that it does not see included."""
        settings = super().preparation()
        return settings and {**settings, "held_out": self.held_out}

    def skip(self, view: ModelView) -> str | None:
        """Ask every member, and for enough images to set a threshold on."""
        for place, defense in enumerate(self.defenses):
            reason = defense.skip(self._given(place, view))
            if reason is not None:
                return f"{defense.name}: {reason}"
        if not self._filters:
            return None
        held_out, needed = len(self._cut(view.clean)[1]), math.ceil(len(self.defenses) / self.fpr)
        if held_out >= needed:
            return None
        return f"needs {math.ceil(needed / self.held_out)} clean images at fpr={self.fpr}; there are {len(view.clean)}"

    def defend(self, view: ModelView, seed: int) -> Outcome:
        """Run all members, each with a seed of its own, and put their answers together."""
        given = [self._given(place, view) for place in range(len(self.defenses))]
        outcomes = [
            defense.defend(shown, derive(seed, "ensemble", place))
            for place, (defense, shown) in enumerate(zip(self.defenses, given, strict=True))
        ]
        screens = [outcome for outcome in outcomes if isinstance(outcome, InputScreen)]
        return self._screen(screens, view) if self._filters else self._verdict(outcomes)

    def _screen(self, screens: list[InputScreen], view: ModelView) -> InputScreen:
        unseen = self._cut(view.clean)[1].floats()
        clean = [screen.score(unseen) for screen in screens]
        ordered = [scores.sort().values for scores in clean]

        def combined(scores: list[Tensor]) -> Tensor:
            return self._combined(torch.stack([rank(*each) for each in zip(scores, ordered, strict=True)]))

        threshold = combined(clean).quantile(1 - self.fpr, interpolation="higher")
        return InputScreen(lambda pixels: combined([screen.score(pixels) for screen in screens]), float(threshold))

    def _verdict(self, outcomes: list[Outcome]) -> ModelVerdict:
        verdicts = [outcome for outcome in outcomes if isinstance(outcome, ModelVerdict) and outcome.scores is not None]
        if len(verdicts) < len(outcomes):
            raise NotApplicableError("one of the detectors judges the model as a whole and has no score per class")
        indices = [anomaly_indices(verdict.scores) for verdict in verdicts if verdict.scores is not None]
        scores = self._combined(torch.stack(indices))
        largest, label = scores.max(0)
        suspect = int(label) if largest > self.anomaly_threshold else None
        foremost = max(verdicts, key=lambda verdict: float(anomaly_indices(verdict.scores)[label]))  # type: ignore[arg-type]
        return ModelVerdict(scores, suspect, foremost.triggers, decisive=float(largest))

    def _combined(self, values: Tensor) -> Tensor:
        return values.mean(0) if self.combine == "mean" else values.amax(0)

    @property
    def _filters(self) -> bool:
        answer = outcome_of(type(self.defenses[0]))
        return answer is not None and issubclass(answer, InputScreen)

    def _given(self, place: int, view: ModelView) -> ModelView:
        clean = self._cut(view.clean)[0] if self._filters else view.clean
        shown: ModelView = self.shown(place, replace(view, clean=clean), view.prepared)
        return shown

    def _cut(self, images: Images) -> tuple[Images, Images]:
        """Cut the clean images into those that the members get and those that they are ranked on."""
        order = torch.randperm(len(images), generator=generator(0, "ensemble", "hold out")).to(images.device)
        count = round(self.held_out * len(images))
        return images.take(order[count:]), images.take(order[:count])


def rank(scores: Tensor, ordered: Tensor) -> Tensor:
    """Return the share of ``ordered (M,)``, ascending, below each score ``(N,)``, ties counting half."""
    below, upto = (torch.searchsorted(ordered, scores, right=right) for right in (False, True))
    return (below + upto) / (2 * len(ordered))
