"""Neural Cleanse: the smallest trigger that sends every image to a class is abnormally small for a planted target.

Paper: Wang et al. 2019, IEEE S&P, sections IV and V; TrojanZoo section 4.3 and Table 21 (weight 1e-3, Adam 0.1).
Differs: all classes are searched side by side (same mathematics). Budget, patience, multipliers and early stop are
    those of the authors' published experiment, which the paper does not print. The mask that is kept is one that was
    tried, not what the step made of it; a class that is finished is searched on for up to nine steps. A fifth of the
    clean images is held out to measure the recovered triggers on. Beside the published index the verdict reads out the
    same index on log norms and the ratio of median to smallest norm. Restarts, the comparison with reference models and
    successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) are ours, and off. Mitigation by unlearning
    belongs to the sanitizers. How an attacker trains against it is ours. With ``search=pgd[norm=l2]`` it is what AEGIS
    compares itself with (Soremekun et al. 2020, arXiv:2003.00865, RQ3): every image has a perturbation of its own, by
    targeted PGD, and what is compared is their mean norm; the seven budgets and step sizes are lost in print.
"""

from typing import Any, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from gifthorse.core.anomaly import anomaly_indices, norm_readouts
from gifthorse.core.classifier import Classifier
from gifthorse.core.evasion import Attacker, Evasion
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.pgd import Pgd
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import Materials, ModelView
from gifthorse.inversion.engine import Best, Budget, Masked, Trial, best_restart, invert
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.inspector import Inspector, credited, hold_out, judge_by_size, masked, suspected, with_success
from gifthorse.inversion.reference import against_references, reference_models
from gifthorse.inversion.smallest_trigger import smallest_trigger
from gifthorse.inversion.translation import PENULTIMATE, translate

REFERENCES = "reference_norms"
"""The trigger norms ``(R, K)`` of the reference models, as prepared."""


class NeuralCleanse(Inspector):
    """Recovers the smallest trigger of every class and flags a class whose trigger is abnormally small."""

    name = "neural_cleanse"
    aliases = ("nc", "neuralcleanse")
    paper = "Wang et al. 2019, IEEE S&P, doi:10.1109/SP.2019.00031"
    offers = "penalty"
    variants = (
        "neural_cleanse[reference=2]",
        "neural_cleanse[search=pgd[norm=l2]]",
        "neural_cleanse[restarts=2,max_batch=64]",
        "neural_cleanse[halvings=2]",
    )

    steps: int = Field(1000, ge=1, description="steps of the search; the cost may change after each")
    batches: int = Field(31, ge=1, description="mini-batches per step")
    batch_size: int = Field(32, ge=1, description="images per mini-batch and class")
    lr: float = Field(0.1, gt=0, description="Adam's learning rate for mask and pattern")
    initial_cost: float = Field(1e-3, gt=0, description="weight of the mask's L1 norm once the attack succeeds")
    cost_multiplier: float = Field(2.0, gt=1, description="factor on the cost; it falls by this to the power of 1.5")
    patience: int = Field(5, ge=1, description="steps in a row that raise or lower the cost")
    success: float = Field(0.99, gt=0, le=1, description="share of images that must reach the class")
    early_stop_patience: int = Field(25, ge=1, description="steps without a smaller mask that end a class's search")
    halvings: int = Field(
        0,
        ge=0,
        description="times, evenly spread over the steps, that the half of the classes with the larger masks is given "
        "up; what was found for them counts as it is",
    )
    restarts: int = Field(1, ge=1, description="searches per class, from different starts; the smallest trigger counts")
    reference: int = Field(
        0,
        ge=0,
        description="benign models to train on the clean images: classes are then compared with theirs, by the number "
        "of standard deviations of the log norm, not with each other; one says nothing of the spread",
    )
    anomaly_threshold: float = Field(2.0, gt=0, description="anomaly index above which a class is suspect")
    reference_threshold: float = Field(
        3.0, gt=0, description="standard deviations below the reference models from which a class is suspect"
    )
    max_batch: int | None = Field(None, ge=1, description="stamped images per forward pass; null: by device")
    search: Pgd | None = Field(
        None, description="pgd[…]: a perturbation for every image in place of one trigger for all (AEGIS, RQ3)"
    )
    pgd_images: int = Field(100, ge=1, description="images that get a perturbation, where it is searched for by PGD")

    @field_validator("reference")
    @classmethod
    def _not_one(cls, reference: int) -> int:
        if reference == 1:
            raise ValueError("one model has no standard deviation: take 0 or at least 2")
        return reference

    @model_validator(mode="after")
    def _one_search(self) -> Self:
        if self.search is not None and (self.reference or self.restarts > 1):
            raise ValueError("search=pgd[…] looks for no trigger: leave reference and restarts out")
        return self

    def evasion_refusal(self, model: Classifier, shape: tuple[int, int, int]) -> str | None:  # noqa: ARG002
        """Refuse the search by perturbations, which looks for no trigger that could be kept from being small."""
        return None if self.search is None else "search=pgd[…] looks for no trigger: it cannot be trained against"

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:
        """Keep triggers smaller than the planted one from reaching a target."""
        return Evasion(penalty=smallest_trigger(attacker, self.lr, seed))

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:
        """Search all classes, then look for the outlier."""
        if self.search is not None:
            return self.by_perturbations(view, self.search, seed)
        searched, held_out = hold_out(view.clean, seed)
        shown, norms = self.recover(view.model, searched, seed)
        triggers = with_success(view.model, masked(shown), held_out)
        verdict = judge_by_size(norms, triggers, self.anomaly_threshold)
        if self.reference == 0:
            return verdict
        scores = credited(against_references(norms, view.prepared[REFERENCES]), triggers)
        suspect = suspected(scores, triggers, self.reference_threshold)
        return ModelVerdict(scores, suspect, triggers, verdict.readouts, float(scores.max()))

    def by_perturbations(self, view: ModelView, search: Pgd, seed: int) -> ModelVerdict:
        """Compare the classes by the mean L2 norm of what brings images to them."""
        order = torch.randperm(len(view.clean), generator=generator(seed, "perturbed"))[: self.pgd_images]
        seeds = view.clean.take(order.to(view.device)).floats()
        towards = search.search(targeted=True, start="image")
        norms = translate(freeze(view.model), seeds, towards, PENULTIMATE, 0).change
        indices = anomaly_indices(-norms)
        above = (indices > self.anomaly_threshold).nonzero().flatten().tolist()
        suspect = int(indices.argmax()) if above else None
        found: dict[str, float | list[float]] = {"trigger_norms": norms.tolist()}
        return ModelVerdict(-norms, suspect, None, norm_readouts(norms), suspects=tuple(above), findings=found)

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        """Train the reference models, and search them as the model in question will be."""
        searched, _ = hold_out(materials.clean, seed)
        structure = materials.trainer.architecture.build(searched.shape, searched.classes, seed).to(materials.device)
        models = reference_models(structure, searched, self.reference, seed)
        return {REFERENCES: torch.stack([self.recover(model, searched, seed)[1] for model in models])}

    def preparation(self) -> dict[str, Any] | None:
        """Name all settings but the thresholds; without reference models there is nothing to prepare."""
        settings = self.model_dump(mode="json", exclude={"anomaly_threshold", "reference_threshold"})
        return settings if self.reference else None

    def recover(self, model: Classifier, images: Images, seed: int) -> tuple[Tensor, Tensor]:
        """Return the smallest trigger ``(K, 1 + C, H, W)`` of every class, and the L1 norms ``(K,)`` of their masks."""
        targets = torch.arange(model.classes, device=images.device).repeat(self.restarts)
        source = Masked.uniform(len(targets), images, derive(seed, self.name))
        schedule = CostSchedule(self, len(targets), images.device)
        budget = Budget(self.steps, self.batches, self.batch_size, self.lr, max_batch=self.max_batch)

        def loss(trial: Trial) -> Tensor:
            return trial.cross_entropy() + schedule.weight[trial.candidates] * trial.size

        final = invert(model, images, targets, source, loss, schedule, budget, seed)
        shown = best_restart(schedule.best.settle(final), schedule.best.size, self.restarts)
        return shown, source.size(shown)


class CostSchedule:
    """The cost of every class's mask over time, K state machines at once.

    A cost starts at zero and is set when the attack has succeeded ``patience`` steps in a row; from then on, that step
    included, so many successes in a row multiply and failures divide it. The smallest mask seen with success is kept. A
    class is finished when its cost has gone both ways and its best mask has stopped shrinking, or when it is given up.
    """

    def __init__(self, settings: NeuralCleanse, classes: int, device: torch.device):
        self.settings = settings
        self.best = Best(classes, settings.success, device)
        self.weight = torch.zeros(classes, device=device)
        self.finished = torch.zeros(classes, dtype=torch.bool, device=device)
        self._set, self._up, self._down, self._stale = torch.zeros(4, classes, dtype=torch.long, device=device)
        self._went_up, self._went_down = torch.zeros(2, classes, dtype=torch.bool, device=device)
        parts = settings.halvings + 1
        self._halve_after = {settings.steps * part // parts for part in range(1, parts)}
        self._steps = 0

    def observe(self, active: Tensor, accuracy: Tensor, norm: Tensor, shown: Tensor) -> None:
        """Update the classes ``active (A,)`` from one step's mean accuracy and norm and its last triggers."""
        s = self.settings
        succeeded = accuracy >= s.success
        better = self.best.observe(active, accuracy, norm, shown)
        valid = self.best.size[active].isfinite()
        self._stale[active] = torch.where(valid & ~better, self._stale[active] + 1, 0)
        both_ways = self._went_up[active] & self._went_down[active]
        self.finished[active] |= both_ways & (self._stale[active] >= s.early_stop_patience)

        unset = self.weight[active] == 0
        self._set[active] = torch.where(unset & succeeded, self._set[active] + 1, 0)
        start = self._set[active] >= s.patience
        self._set[active] = self._set[active].masked_fill(start, 0)
        up = torch.where(succeeded, self._up[active].masked_fill(start, 0) + 1, 0)
        down = torch.where(succeeded, 0, self._down[active] + 1)
        rise, fall = up >= s.patience, down >= s.patience
        weight = self.weight[active].masked_fill(start, s.initial_cost)
        weight = torch.where(rise, weight * s.cost_multiplier, weight)
        self.weight[active] = torch.where(fall, weight / s.cost_multiplier**1.5, weight)
        self._up[active], self._down[active] = up.masked_fill(rise, 0), down.masked_fill(fall, 0)
        self._went_up[active] = (self._went_up[active] & ~start) | rise
        self._went_down[active] = (self._went_down[active] & ~start) | fall
        self._steps += 1
        if self._steps in self._halve_after:
            self._halve(active, accuracy)

    def _halve(self, active: Tensor, accuracy: Tensor) -> None:
        """Give up the half of the classes that are still searched whose triggers are larger, or work less."""
        left = active[~self.finished[active]]
        works = accuracy[~self.finished[active]]
        ranked = left[works.argsort(descending=True, stable=True)]
        ranked = ranked[self.best.size[ranked].argsort(stable=True)]
        self.finished[ranked[(len(ranked) + 1) // 2 :]] = True
