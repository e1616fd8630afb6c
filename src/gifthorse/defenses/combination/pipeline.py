"""Pipeline: one defense after another, each looking at what the last one left.

Paper: none has one; TrojanZoo, section 6.5, leaves the combination of defenses to be studied.
Differs: nothing. What follows an answer is said by the answer itself: another model takes the model's place, an input
    reformation stands in front of it, a verdict is told (fine-tuning then unlearns the trigger that was recovered),
    a filtered training set is what remains of it. A filter of inputs comes last, and is judged with the model behind
    it. The result stands in the table of the last defense's family, with the cost of all.
"""

from dataclasses import replace
from typing import Any, Self

from pydantic import Field, model_validator

from gifthorse.core.classifier import Classifier
from gifthorse.core.combination import CombinedDefense
from gifthorse.core.defense import Defense, outcome_of
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.outcomes import CleanModel, InputScreen, Outcome, SuspectSamples
from gifthorse.core.seeds import derive
from gifthorse.core.views import DataFreeView


class Pipeline(CombinedDefense[DataFreeView]):
    """Runs defenses one after another; the last one's answer counts."""

    name = "pipeline"
    paper = "none; TrojanZoo, section 6.5, leaves it to be studied"
    variants = ("pipeline[defenses=[neural_cleanse[reference=2],fine_pruning]]", "pipeline[defenses=[flip,strip]]")
    view = DataFreeView

    defenses: tuple[Defense[Any], ...] = Field(
        ("fine_pruning", "strip"),  # type: ignore[arg-type]
        min_length=2,
        description="the defenses, in their order",
    )

    @model_validator(mode="after")
    def _can_follow_each_other(self) -> Self:
        """Refuse what could never work, before anything is trained."""
        for defense in self.defenses[:-1]:
            answer = outcome_of(type(defense))
            if answer is not None and answer is not Outcome and answer.after is Outcome.after:
                raise ValueError(f"no defense can follow {defense.name}: put it last")
        return self

    def judged_as(self) -> str:
        """Return the last one's family."""
        return self.defenses[-1].judged_as()

    def skip(self, view: DataFreeView) -> str | None:
        """Ask for images, and the first one: what the others look at is not there yet."""
        for images in ("clean", "suspect"):
            if len(getattr(view, images, "some")) == 0:
                return f"needs {images} images; there are none"
        return self.defenses[0].skip(self.shown(0, view, view.prepared))

    def defend(self, view: DataFreeView, seed: int) -> Outcome:
        """Run all; :class:`NotApplicableError` where one cannot follow after all."""
        held, replaced = view, False
        for place, defense in enumerate(self.defenses):
            given = self.shown(place, held, view.prepared)
            reason = defense.skip(given)
            if reason is not None:
                raise NotApplicableError(f"{defense.name}: {reason}")
            outcome = defense.defend(given, derive(seed, "pipeline", place))
            if place == len(self.defenses) - 1:
                break
            following = outcome.after(held)
            if isinstance(following, str):
                raise NotApplicableError(f"{self.defenses[place + 1].name} cannot follow {defense.name}: {following}")
            held, replaced = following, replaced or isinstance(outcome, (CleanModel, SuspectSamples))
        if isinstance(outcome, InputScreen) and outcome.model is None and replaced:
            return replace(outcome, model=held.model)
        if isinstance(outcome, CleanModel) and isinstance(outcome.model, Classifier):
            # Whatever stands in front of the network, and not only what the last defense put there.
            return replace(outcome, reform=outcome.model.reform)
        return outcome
