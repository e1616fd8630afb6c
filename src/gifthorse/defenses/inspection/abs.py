"""ABS: units that lift one class above all others, whatever the image shows, are stimulated to find planted triggers.

Paper: Liu et al. 2019, CCS, doi:10.1145/3319535.3363216, sections 4 and 5 and Algorithms 1 and 2; TrojanZoo section
    4.3 and Table 21 (k = 1, 5 images a class, at most 16 pixels of 32×32, Adam 0.1 with 1000 steps, size weights
    0.1, 10 and 100).
Differs: units are channels of the last stages, after their activation. Besides making its unit fire, a trigger has to
    reach the class (cross-entropy), which the authors added for their later competition entry. Its size is bounded as
    a share of the image, and strictly: half of the steps find the pixels where it should lie, the others what it shows
    in these alone. Under the size weights by themselves triggers of benign models grow until they all work. The search
    starts from a faint mask over the whole image, and Adam has Neural Cleanse's betas. Candidates are inverted side by
    side. The verdict's scores are REASR, on held-out images, so the index is the largest of them,
    not a deviation from a median. Who trains against it (TrojanZoo, section 6.3, adds Algorithm 2's cost to the loss)
    pays for what clean images lose while the unit is stimulated that the trigger raises most: the unit, and no search.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.classifier import Classifier
from gifthorse.core.evasion import Attacker, Evasion
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict, RecoveredTriggers
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import ModelView
from gifthorse.inversion.engine import Budget, Masked, Trial, invert
from gifthorse.inversion.inspector import Inspector, hold_out, masked, with_success
from gifthorse.inversion.stimulation import Stimulation, Unit, stimulation_cost

FAINT, OPEN, SHUT = -1.0, 2.0, -10.0
"""Free mask values: where the search starts, and inside and outside of the window that it ends in."""


class Abs(Inspector):
    """Stimulates units one by one, inverts a trigger for those that lift one class, and tries these on new images."""

    name = "abs"
    aliases = ("artificial_brain_stimulation",)
    paper = "Liu et al. 2019, CCS, doi:10.1145/3319535.3363216"
    offers = "penalty"
    variants = ("abs[class_weight=0.0]",)

    samples: int = Field(5, ge=1, description="images of each class on which units are stimulated")
    strength: float = Field(1.0, gt=0, description="k: largest value a unit is set to, in maxima of its stage")
    levels: int = Field(5, ge=1, description="values that a unit is set to, beside zero")
    stages: int = Field(2, ge=1, description="how many of the last stages are stimulated")
    agreement: float = Field(0.75, gt=0, le=1, description="share of images on which a unit has to lift one class most")
    candidates: int = Field(20, ge=1, description="units that a trigger is inverted for, the strongest of each class")
    steps: int = Field(1000, ge=1, description="steps of the inversion")
    batch_size: int = Field(32, ge=1, description="images per step and unit")
    lr: float = Field(0.1, gt=0, description="Adam's learning rate for mask and pattern")
    max_size: float = Field(16 / 1024, gt=0, le=1, description="largest size of a trigger, as a share of the image")
    size_weights: tuple[float, float, float] = Field(
        (0.1, 10.0, 100.0), description="weight of the mask's L1 norm below that size, above it, and above 6.25 of it"
    )
    class_weight: float = Field(1.0, ge=0, description="weight of reaching the class beside making the unit fire")
    others_weight: float = Field(1e-4, ge=0, description="weight of leaving the stage's other units alone")
    reasr_threshold: float = Field(0.8, gt=0, le=1, description="REASR from which a class is suspect")
    max_batch: int | None = Field(None, ge=1, description="stamped images per forward pass; null: by device")

    def skip(self, view: ModelView) -> str | None:
        """Refuse models whose stages are unknown, and classes without images, besides what every inspector refuses."""
        reason = Inspector.skip(self, view)
        if reason is not None:
            return reason
        if not view.model.stage_names:
            return "stimulates units of a model's stages; this model has none"
        present = torch.bincount(view.clean.labels, minlength=view.model.classes) > 0
        if not present.all():
            absent = ", ".join(map(str, present.logical_not().nonzero().flatten().tolist()))
            return f"needs clean images of every class; there are none of class {absent}"
        return None

    def evasion_refusal(self, model: Classifier, shape: tuple[int, int, int]) -> str | None:  # noqa: ARG002
        """Refuse a network whose stages are unknown."""
        return None if model.stage_names else "stimulates units of a model's stages; this network has none"

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:  # noqa: ARG002
        """Keep the units that the trigger raises from deciding anything by themselves (TrojanZoo, section 6.3)."""
        return Evasion(penalty=stimulation_cost(self.stages, self.strength))

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:
        """Stimulate, invert, and try the triggers on held-out images."""
        searched, held_out = hold_out(view.clean, seed)
        stimulation = Stimulation(self.stages, self.samples, self.strength, self.levels, self.agreement)
        units = self.choose(stimulation.all_units(view.model, searched, seed))
        scores = torch.zeros(view.model.classes, device=view.device)
        if not units:
            return ModelVerdict(scores, None, readouts={"stimulation": 0.0}, decisive=0.0)
        targets = torch.tensor([unit.label for unit in units], device=view.device)
        found = with_success(view.model, masked(self.invert(view.model, searched, units, seed)), held_out, targets)
        assert found.success is not None
        assert found.held_out is not None
        scores = scores.scatter_reduce(0, targets, found.success, "amax")
        best = [int(torch.where(targets == label, found.success, -1).argmax()) for label in range(len(scores))]
        known = torch.isin(torch.arange(len(scores), device=view.device), targets)
        mask = found.mask[best] * known.view(-1, 1, 1, 1)
        index = float(scores.max())
        return ModelVerdict(
            scores,
            int(scores.argmax()) if index >= self.reasr_threshold else None,
            RecoveredTriggers(mask, found.pattern[best], success=scores, held_out=found.held_out[best] * known),
            {"stimulation": max(unit.margin for unit in units)},
            index,
        )

    def choose(self, units: list[Unit]) -> list[Unit]:
        """Return the strongest unit of every stage and class, and of these the strongest so many."""
        strongest: dict[tuple[str, int], Unit] = {}
        for unit in sorted(units, key=lambda unit: unit.margin, reverse=True):
            strongest.setdefault((unit.stage, unit.label), unit)
        return list(strongest.values())[: self.candidates]

    def invert(self, model: Classifier, images: Images, units: list[Unit], seed: int) -> Tensor:
        """Return a trigger ``(U, 1 + C, H, W)`` for every unit: first where it lies, then what it shows there."""
        device, (channels, height, width) = images.device, images.shape
        random = generator(seed, self.name, "start", device=device)
        raw = torch.rand(len(units), 1 + channels, height, width, generator=random, device=device) * 2 - 1
        raw[:, 0] = FAINT
        window = max(round(self.max_size * height * width), 1)
        stages = list(dict.fromkeys(unit.stage for unit in units))
        where = torch.tensor([stages.index(unit.stage) for unit in units], device=device)
        channel = torch.tensor([unit.channel for unit in units], device=device)
        targets = torch.tensor([unit.label for unit in units], device=device)

        def fires(trial: Trial) -> Tensor:
            gain = torch.zeros_like(trial.size)
            for position, stage in enumerate(stages):
                maps = trial.maps[stage].mean((1, 3, 4))
                own = maps.gather(1, channel[trial.candidates, None].clamp_max(maps.shape[1] - 1)).squeeze(1)
                here = where[trial.candidates] == position
                gain = gain + here * (own - self.others_weight * (maps.sum(1) - own))
            return gain

        def loss(trial: Trial) -> Tensor:
            low, middle, high = self.size_weights
            weight = torch.where(trial.size <= window, low, torch.where(trial.size <= 6.25 * window, middle, high))
            return weight * trial.size + self.class_weight * trial.cross_entropy() - fires(trial)

        def search(source: Masked, steps: int, purpose: str) -> None:
            budget = Budget(steps, 1, self.batch_size, self.lr, max_batch=self.max_batch)
            invert(model, images, targets, source, loss, None, budget, derive(seed, self.name, purpose), stages)

        source = Masked(raw)
        search(source, -(-self.steps // 2), "place")
        mask = source.raw.detach()[:, 0].flatten(1)
        inside = torch.zeros_like(mask).scatter(1, mask.topk(window).indices, 1) > 0
        source.raw.data[:, 0] = torch.where(inside, OPEN, SHUT).view(-1, height, width)
        search(source, self.steps // 2, "pattern")
        shown: Tensor = source(torch.arange(len(units), device=device)).detach()
        return shown
