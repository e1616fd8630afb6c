"""MNTD: meta-classifiers, trained on shadow models of the defender's own, tell trojaned models from benign ones.

Paper: Xu et al. 2021, IEEE S&P, arXiv:1910.03137: jumbo learning, query tuning and one-class learning; 2048 models of
    each kind, 256 of each to validate on, five repeats. Dynamic Backdoors (Salem et al. 2020), section 4.6,
    trains 50 meta-classifiers on 200 shadow models (``mntd_dynamic``) and decides by the training models' median score.
Differs: how shadow models and meta-classifiers are trained is told in :mod:`gifthorse.inversion.shadows` and
    :mod:`gifthorse.inversion.meta_classifier`. Repeats are one defense: their mean score decides. The architecture is
    that of the model in question, which the defender knows. A fifth of the clean images is held out to see what shadow
    models learn; below ``least_accuracy`` nothing is said of any model. The published code's threshold is the median
    score of the models that are judged, right where half of these are trojaned; here it is that of the training models,
    as in Dynamic Backdoors. With ``one_class`` these are all benign, and a model is flagged outside of the radius that
    encloses them. The calibrated threshold, the largest score that few benign validation models exceed, is ours. Who
    trains against it lowers the scores of all its meta-classifiers, which Dynamic Backdoors has one of, to those of its
    benign shadow models: ``against=mntd[classifiers=25]`` says how many.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.evasion import Attacker, Evasion, Seen
from gifthorse.core.networks import evaluating
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.recipe import Recipe
from gifthorse.core.seeds import derive
from gifthorse.core.views import Materials, ModelView
from gifthorse.inversion.inspector import Inspector, hold_out, too_few_or_other
from gifthorse.inversion.meta_classifier import MetaTraining, Stack, aurocs
from gifthorse.inversion.shadows import train_shadows

LEAST_AUROC = 0.6
"""What an attacker's meta-classifiers reach on shadow models, at least, to be trained against."""


class Mntd(Inspector, MetaTraining, Recipe):
    """Has meta-classifiers judge the model as a whole, by its answers to queries that they learnt."""

    name = "mntd"
    black_box = True
    offers = "discriminator"
    aliases = ("meta_neural_trojan_detection",)
    paper = "Xu et al. 2021, IEEE S&P, arXiv:1910.03137"
    variants = ("mntd[tuned_queries=false]", "mntd[one_class=true,threshold=calibrated]")

    shadows: int = Field(2048, ge=2, description="benign shadow models to learn from, and as many trojaned ones")
    validation: int = Field(256, ge=2, description="further ones of each kind, which choose the epoch")
    epochs: int = Field(100, ge=1, description="passes of a shadow model over its images")
    batch_size: int = Field(100, ge=2, description="images per step of a shadow model")
    lr: float = Field(0.05, gt=0, description="learning rate of a shadow model's SGD (the peak of its schedule)")
    schedule: Literal["constant", "cosine", "one_cycle"] | tuple[int, ...] = Field(
        "one_cycle", description="a shadow model's learning rate over time; [10,15]: a tenth after so many epochs"
    )
    copies: int = Field(
        1, ge=1, description="copies of an image in a shadow model's set, each cropped and mirrored anew"
    )
    shift: int = Field(0, ge=0, description="random crop of the shadow models' images, in pixels")
    flip: bool = Field(False, description="random left-right flip of the shadow models' images")
    threshold: Literal["median", "calibrated"] = Field(
        "median", description="score from which a model is flagged: the training models' median; or set for fpr"
    )
    fpr: float = Field(0.05, gt=0, lt=1, description="share of benign models that may exceed a calibrated threshold")
    least_accuracy: float = Field(
        0.5, ge=0, le=1, description="mean accuracy of benign shadow models, on images held out, that is asked for"
    )
    defender: int = Field(0, ge=0, description="which defender: another one has shadow models and queries of its own")

    def skip(self, view: ModelView) -> str | None:
        """Refuse a model of unknown make, and images that it cannot judge."""
        if view.trainer is None and self.fitted_from is None:
            return "shadow models need to be made as the model was, and nobody says how"
        return too_few_or_other(view)

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        """Return the meta-classifiers, what they say of the shadow models, and how good these are."""
        if self.fitted_from is not None:
            return self.read_fitted(materials.device)
        seed = derive(seed, self.name, self.defender)
        images, held_out = hold_out(materials.clean, seed)
        each = self.shadows + self.validation
        trojaned = 0 if self.one_class else each
        architecture = materials.trainer.architecture
        models = train_shadows(
            architecture,
            images,
            held_out,
            self,
            benign=each,
            trojaned=trojaned,
            copies=self.copies,
            seed=seed,
        )
        place = torch.arange(len(models.models), device=images.device) % each
        parts = {"training": models.take(place < self.shadows), "validation": models.take(place >= self.shadows)}
        stacks = {name: Stack.of(part.models) for name, part in parts.items()}
        flags = {name: part.trojaned for name, part in parts.items()}
        fitted = self.train_meta(stacks, flags, images, seed)
        for name, stack in stacks.items():
            scores = self.scores(fitted, stack.ask_all(fitted["queries"]))
            fitted |= {f"{name}_benign": scores[:, ~flags[name]], f"{name}_trojaned": scores[:, flags[name]]}
        benign = ~models.trojaned
        fitted |= {"accuracy": models.accuracy[benign], "trojaned_accuracy": models.accuracy[~benign]}
        fitted |= {"trojaned_success": models.success[~benign], "images": torch.tensor([len(images), len(held_out)])}
        return {**fitted, "probabilities": torch.tensor(self.answers == "probabilities")}

    def preparation(self) -> dict[str, Any]:
        """Name all settings but those of the decision."""
        return self.model_dump(mode="json", exclude={"threshold", "fpr", "least_accuracy"})

    def evasion_refusal(self, model: Classifier, shape: tuple[int, int, int]) -> str | None:  # noqa: ARG002
        """Refuse meta-classifiers of a file: an attacker has none but those it fits itself."""
        return None if self.fitted_from is None else "an attacker fits meta-classifiers itself: leave fitted_from out"

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:  # noqa: ARG002 nothing of it is drawn
        """Lower the scores of meta-classifiers of the attacker's own to a benign model's (Dynamic Backdoors, 4.6).

        Like the defender's, they are fitted to shadow models, of the attacker's images.
        """
        fitted = attacker.prepared
        quality = self.shadow_findings(fitted)
        if (accuracy := quality["shadow_acc"]) < self.least_accuracy:
            raise NotApplicableError(
                f"the attacker's shadow models are too poor to train against: they are right on {accuracy:.0%} of the "
                f"attacker's own images, and least_accuracy={self.least_accuracy:g} is asked for"
            )
        if (reached := quality.get("meta_auroc", 1.0)) < LEAST_AUROC:
            raise NotApplicableError(
                f"the attacker's meta-classifiers are too poor to train against: AUROC {reached:.2f} on shadow models, "
                f"and {LEAST_AUROC:g} is asked for; they need more shadow models, or better trained ones"
            )
        queries = fitted["queries"]
        usual = self.suspicion(fitted, fitted["training_benign"]).mean(1, keepdim=True)

        def penalty(model: Classifier, _: Seen) -> Tensor:
            with evaluating(model):
                answers = model(queries.flatten(0, 1)).float().view(len(queries), 1, queries.shape[1], -1)
            return softplus(self.suspicion(fitted, self.scores(fitted, answers)) - usual).mean()

        return Evasion(penalty=penalty)

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:  # noqa: ARG002 its draws are the defender's
        """Show the model every meta-classifier's queries, and have them score what it answers."""
        fitted = view.prepared
        self.check(view, fitted)
        queries = fitted["queries"]
        answers = predict(view.model, queries.flatten(0, 1)).view(len(queries), 1, queries.shape[1], -1)
        scores = self.suspicion(fitted, self.scores(fitted, answers))[:, 0]
        index, threshold = float(scores.mean()), float(self.boundary(fitted, together=True))
        return ModelVerdict(
            None,
            None,
            decisive=index,
            flagged=index > threshold,
            findings={
                "meta_threshold": threshold,
                "meta_spread": float(scores.std(correction=0)),
                "meta_flagged": float((scores > self.boundary(fitted, together=False)).float().mean()),
                **self.shadow_findings(fitted),
            },
        )

    def check(self, view: ModelView, fitted: Mapping[str, Tensor]) -> None:
        """Raise :class:`NotApplicableError` where shadow models learnt too little, or are of other models than this."""
        shape = tuple(fitted["queries"].shape[2:])
        classes = fitted["hidden_weight"].shape[1] // fitted["queries"].shape[1]
        if (shape, classes) != (view.shape, view.classes):
            known, given = ("×".join(map(str, each)) for each in (shape, view.shape))
            raise NotApplicableError(
                f"the shadow models took images of {known} in {classes} classes, this model takes {given} in "
                f"{view.classes}"
            )
        reached = float(fitted["accuracy"].mean())
        if reached < self.least_accuracy:
            trained, measured = fitted["images"].tolist()
            raise NotApplicableError(
                f"shadow models trained on {trained} clean images are right on {reached:.0%} of {measured} others, and "
                f"least_accuracy={self.least_accuracy:g} is asked for: more images are needed"
            )

    def suspicion(self, fitted: Mapping[str, Tensor], scores: Tensor) -> Tensor:
        """Return how suspicious ``scores (M, S)`` are: with ``one_class``, how far outside of the radius."""
        if "bias" in fitted:
            return scores
        return fitted["training_benign"].quantile(self.nu, 1, keepdim=True) - scores

    def boundary(self, fitted: Mapping[str, Tensor], *, together: bool) -> Tensor:
        """Return the threshold of the mean score, a scalar, or of each meta-classifier, ``(M,)``."""
        kinds = ("training_benign", "training_trojaned") if self.threshold == "median" else ("validation_benign",)
        scores = self.suspicion(fitted, torch.cat([fitted[kind] for kind in kinds], 1))
        scores = scores.mean(0, keepdim=True) if together else scores
        if self.threshold == "calibrated":
            found = scores.quantile(1 - self.fpr, 1, interpolation="higher")
        else:
            found = scores.quantile(0.5, 1) if "bias" in fitted else torch.zeros_like(scores[:, 0])
        return found[0] if together else found

    def shadow_findings(self, fitted: Mapping[str, Tensor]) -> dict[str, float]:
        """Return what the defender knows of the shadow models, in the mean."""
        found = {"shadow_acc": float(fitted["accuracy"].mean())}
        if fitted["validation_trojaned"].shape[1]:
            benign, trojaned = (fitted[f"validation_{kind}"].mean(0) for kind in ("benign", "trojaned"))
            flags = torch.arange(len(benign) + len(trojaned), device=benign.device) >= len(benign)
            found["shadow_acc_trojaned"] = float(fitted["trojaned_accuracy"].mean())
            found["shadow_asr"] = float(fitted["trojaned_success"].mean())
            found["meta_auroc"] = float(aurocs(torch.cat([benign, trojaned])[None], flags))
        return found
