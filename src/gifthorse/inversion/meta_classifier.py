"""A meta-classifier: it tells models apart by what they answer to queries that are learnt along with it.

Paper: Xu et al. 2021 (MNTD), arXiv:1910.03137, its meta-training with query tuning and its one-class learning;
    layers, learning rate and ν are those of its code.
Differs: several are trained side by side, which meet the models in the same order. In batches of models the loss is
    their mean. Answers may be probabilities instead of logits, whose size tells how long a model was trained. Models
    answer in evaluation mode, where the published code leaves dropout and batch statistics on. Without trojaned models
    there is nothing to validate on: the last epoch is kept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.functional import binary_cross_entropy_with_logits

from gifthorse.checkpoints.reading import read_state_dict
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.training.optimisers import adam

FITTED = {
    *("queries", "hidden_weight", "hidden_bias", "weight", "probabilities", "images", "accuracy", "trojaned_accuracy"),
    *("trojaned_success", "training_benign", "training_trojaned", "validation_benign", "validation_trojaned"),
}
"""The names of whatever is fitted; meta-classifiers that learnt from both kinds of models have a ``bias`` as well."""
ASKED = 64
"""Models that are asked at once where no gradient is needed."""


class MetaTraining(Configuration):
    """Meta-classifiers and their training, as the fields of whatever has some; the defaults are the paper's."""

    queries: int = Field(10, ge=1, description="images that a meta-classifier shows to every model")
    answers: Literal["logits", "probabilities"] = Field("logits", description="what is made of a model's outputs")
    tuned_queries: bool = Field(True, description="learn the queries as well; false: they stay as they were drawn")
    one_class: bool = Field(False, description="learn from benign shadow models alone what such models are like")
    hidden: int = Field(20, ge=1, description="units of a meta-classifier's hidden layer")
    classifiers: int = Field(5, ge=1, description="meta-classifiers, from different starts; their mean score decides")
    meta_epochs: int = Field(10, ge=1, description="passes over the shadow models")
    models_per_step: int = Field(1, ge=1, description="shadow models per step")
    meta_lr: float = Field(1e-3, gt=0, description="Adam's learning rate for queries and weights")
    nu: float = Field(0.1, gt=0, lt=1, description="ν, with one_class: share of benign models that may look unlike")

    fitted_from: str | None = Field(
        None,
        description="file with meta-classifiers that are there already: what the store prepared for another run "
        "(artifacts/prepared/KEY.safetensors, the record names the key); nothing is trained then",
    )

    def files(self) -> tuple[Path, ...]:
        """Return the file of the meta-classifiers, if one is named."""
        return () if self.fitted_from is None else (Path(self.fitted_from).expanduser(),)

    def read_fitted(self, device: torch.device) -> dict[str, Tensor]:
        """Return what the file holds that is named; :class:`RequestError` where these are no meta-classifiers."""
        (path,) = self.files()
        found = read_state_dict(path)
        missing = sorted(FITTED - found.keys())
        if missing:
            raise RequestError(f"{path} holds no fitted meta-classifiers: there is no {missing[0]}")
        fitted = "probabilities" if found["probabilities"] else "logits"
        if fitted != self.answers:
            raise RequestError(f"{path} was fitted with answers={fitted}, not {self.answers}")
        return {name: each.to(device) for name, each in found.items()}

    def train_meta(
        self, stacks: Mapping[str, "Stack"], trojaned: Mapping[str, Tensor], like: Images, seed: int
    ) -> dict[str, Tensor]:
        """Return weights and queries by name, the meta-classifiers first in every shape.

        ``stacks`` are the models for ``training`` and ``validation``, and ``trojaned``, ``bool (S,)``, says which of
        them are. Of every meta-classifier the epoch with the best AUROC on the latter is kept. Queries start as noise
        of the mean and deviation of ``like``.
        """
        models, validation, device = stacks["training"], stacks["validation"], like.device
        weights = self.start(like, models.classes, seed)
        learnt = [each for name, each in weights.items() if name != "queries" or self.tuned_queries]
        for each in learnt:
            each.requires_grad_(True)
        optimizer = adam(learnt, self.meta_lr)
        random = generator(seed, "order")
        queries = weights["queries"]
        # Queries that stay as they are need be asked once.
        known = (
            None if self.tuned_queries else {name: each.ask_all(weights["queries"]) for name, each in stacks.items()}
        )
        seen = torch.full((self.classifiers, len(models)), torch.nan, device=device)
        best, kept = torch.full((self.classifiers,), -1.0, device=device), detached(weights)
        for _ in track(range(self.meta_epochs), "meta-classifiers", self.meta_epochs):
            order = torch.randperm(len(models), generator=random).to(device)
            for index in order.split(self.models_per_step):
                answers = models.ask(queries, index) if known is None else known["training"][:, index]
                scores = self.scores(weights, answers)
                if self.one_class:
                    seen[:, index] = scores.detach()
                    loss = one_class_loss(weights, scores, seen.nanquantile(self.nu, 1), self.nu)
                else:
                    loss = two_class_loss(scores, trojaned["training"][index])
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
            now = detached(weights)
            if self.one_class:
                kept = now
                continue
            answers = validation.ask_all(now["queries"]) if known is None else known["validation"]
            found = aurocs(self.scores(now, answers), trojaned["validation"])
            better, best = found > best, torch.maximum(found, best)
            kept = {name: torch.where(_shaped(better, each), now[name], each) for name, each in kept.items()}
        return kept

    def start(self, like: Images, classes: int, seed: int) -> dict[str, Tensor]:
        """Return untrained meta-classifiers: layers as torch's linear layers start, queries as noise."""
        random, device, count = generator(seed, "start"), like.device, self.classifiers
        pixels = like.floats()
        mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
        noise = torch.randn(count, self.queries, *like.shape, generator=random).to(device)
        inputs = self.queries * classes

        def uniform(inputs: int, *shape: int) -> Tensor:
            drawn = 2 * torch.rand(count, *shape, generator=random) - 1
            return (drawn / math.sqrt(inputs)).to(device)

        return {
            "queries": mean.view(-1, 1, 1) + deviation.view(-1, 1, 1) * noise,
            "hidden_weight": uniform(inputs, inputs, self.hidden),
            "hidden_bias": uniform(inputs, self.hidden),
            "weight": uniform(self.hidden, self.hidden),
            **({} if self.one_class else {"bias": uniform(self.hidden)}),
        }

    def scores(self, weights: Mapping[str, Tensor], logits: Tensor) -> Tensor:
        """Return the output ``(M, S)`` of ``M`` meta-classifiers for the ``logits (M, S, Q, K)`` of ``S`` models."""
        answers = (logits.softmax(-1) if self.answers == "probabilities" else logits).flatten(2)
        hidden = torch.baddbmm(weights["hidden_bias"].unsqueeze(1), answers, weights["hidden_weight"]).relu()
        scores = torch.bmm(hidden, weights["weight"].unsqueeze(2)).squeeze(2)
        return scores + weights["bias"].unsqueeze(1) if "bias" in weights else scores


def two_class_loss(scores: Tensor, trojaned: Tensor) -> Tensor:
    """Return each meta-classifier's loss ``(M,)``: the cross-entropy of ``scores (M, S)``, mean over models."""
    wanted = trojaned.float().expand_as(scores)
    return binary_cross_entropy_with_logits(scores, wanted, reduction="none").mean(1)


def one_class_loss(weights: Mapping[str, Tensor], scores: Tensor, radius: Tensor, nu: float) -> Tensor:
    """Return each meta-classifier's loss ``(M,)``: ½‖weights‖² + mean(max(0, r − score)) / ν − r.

    ``radius (M,)`` is r; a model that scores less lies outside. Queries are not penalised.
    """
    penalty = sum(each.flatten(1).square().sum(1) for name, each in weights.items() if name != "queries")
    return 0.5 * penalty + (radius.unsqueeze(1) - scores).relu().mean(1) / nu - radius


def aurocs(scores: Tensor, trojaned: Tensor) -> Tensor:
    """Return the AUROC ``(M,)`` of every row of ``scores (M, S)``, ties counting half."""
    above = scores[:, trojaned].unsqueeze(2) - scores[:, ~trojaned].unsqueeze(1)
    return (above.sign().mean((1, 2)) + 1) / 2


@dataclass(frozen=True, eq=False)
class Stack:
    """Frozen models of one architecture that answer the same queries in one pass, each by its own weights."""

    model: nn.Module
    weights: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    classes: int

    @classmethod
    def of(cls, models: Sequence[Classifier]) -> "Stack":
        """Stack models, at least one."""
        weights, buffers = stack_module_state(list(models))
        return cls(models[0], detached(weights), buffers, models[0].classes)

    def __len__(self) -> int:
        return len(next(iter(self.weights.values())))

    def ask(self, queries: Tensor, index: Tensor) -> Tensor:
        """Return what the models at ``index (B,)`` answer to ``queries (M, Q, C, H, W)``: ``(M, B, Q, K)``."""

        def answer(weights: dict[str, Tensor], buffers: dict[str, Tensor], pixels: Tensor) -> Tensor:
            logits: Tensor = functional_call(self.model, (weights, buffers), (pixels,))
            return logits

        parts = [{name: each[index] for name, each in state.items()} for state in (self.weights, self.buffers)]
        logits: Tensor = torch.vmap(answer, in_dims=(0, 0, None))(parts[0], parts[1], queries.flatten(0, 1))
        return logits.view(len(index), *queries.shape[:2], -1).transpose(0, 1)

    @torch.no_grad()
    def ask_all(self, queries: Tensor) -> Tensor:
        """Return what all models answer, ``(M, S, Q, K)``, without a gradient."""
        index = torch.arange(len(self), device=queries.device)
        return torch.cat([self.ask(queries, part) for part in index.split(ASKED)], 1)


def detached(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies without a gradient."""
    return {name: each.detach().clone() for name, each in weights.items()}


def _shaped(flags: Tensor, like: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (like.ndim - 1))
