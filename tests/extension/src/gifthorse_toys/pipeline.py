"""One defense after another: each gets what the last one left.

Paper: none; a toy.
Differs: nothing.
"""

from dataclasses import replace
from typing import Any

from pydantic import Field
from torch import Tensor

from gifthorse import DEFENSES, Defense, Materials, ModelView, Outcome
from gifthorse.core.seeds import derive
from gifthorse.defenses.sanitization.fine_pruning import FinePruning


@DEFENSES.add
class Pipeline(Defense[ModelView]):
    """Runs defenses one after another; the last one's answer counts."""

    name = "toy_pipeline"
    paper = "none; a toy"
    family = "sanitization"
    view = ModelView

    defenses: tuple[Defense[Any], ...] = Field((FinePruning(),), min_length=1, description="in their order")

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        """Let each prepare what it needs, under its place."""
        made: dict[str, Tensor] = {}
        for place, defense in enumerate(self.defenses):
            if defense.preparation() is not None:
                made |= {f"{place}/{name}": tensor for name, tensor in defense.prepare(materials, seed).items()}
        return made

    def skip(self, view: ModelView) -> str | None:
        """Ask each whether it can look at such a model."""
        for defense in self.defenses:
            if not isinstance(view, defense.view):
                return f"{defense.name} needs a {defense.view.__name__}"
        return self.defenses[0].skip(view)

    def defend(self, view: ModelView, seed: int) -> Outcome:
        """Run all; what does not fit together is an error that says so."""
        held: ModelView | str = view
        for place, defense in enumerate(self.defenses):
            if isinstance(held, str):
                raise ValueError(f"{defense.name} cannot follow: {held}")
            ours = f"{place}/"
            mine = {name.removeprefix(ours): each for name, each in view.prepared.items() if name.startswith(ours)}
            given = replace(held, prepared=mine)
            reason = defense.skip(given)
            if reason is not None:
                raise ValueError(f"{defense.name} {reason}")
            outcome = defense.defend(given, derive(seed, place))
            held = outcome.after(held)
        return outcome
