"""Downstream heads on the features of a pre-trained network, and how a downstream user tunes them.

Paper: TrojanZoo, section 5.2.3 and Table 6 (1-FCN, 2-FCN, Bayes, SVM, random forest; partial and full tuning).
Differs: the paper prints no settings of the tuning. Fully connected heads are trained as the task's recipe says; in the
    paper profile for 50 epochs at a rate of 0.01, which Table 20 prints for re-training and its code's transfer
    (``domain_transfer.py``) has as well. That code divides the rate by ten every 10 epochs; here the recipe's schedule
    is kept, or a cosine in the place of its milestones. The others have scikit-learn's defaults; features are
    standardised for the support vector machine. Heads other than 1-FCN stand beside partial tuning in the table, so
    partial is the default.
"""

from abc import abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from gifthorse.core.configuration import Catalogue, Configuration
from gifthorse.core.errors import RequestError
from gifthorse.core.recipe import Recipe
from gifthorse.core.seeds import derive, isolated

PAPER = "TrojanZoo, section 5.2.3 and Table 6"


class Head(Configuration):
    """Makes a module that maps features ``(N, D)`` to logits ``(N, K)``, and says how it is tuned."""

    catalogue = "head"

    tuning: Literal["partial", "full"] = Field(
        "partial", description="partial: the extractor stays as it was delivered; full: it is trained along"
    )
    share: float = Field(1.0, gt=0, le=1, description="share of the training images that the downstream user has")

    def count(self, images: int) -> int:
        """Return how many of the training images the downstream user has; :class:`RequestError` if none."""
        count = round(self.share * images)
        if count < 1:
            raise RequestError(f"{self.name}: share={self.share:g} selects none of {images} training images")
        return count

    def adapt(self, recipe: Recipe) -> Recipe:
        """Return the task's recipe with what this head says otherwise."""
        return recipe

    @abstractmethod
    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:
        """Return the head; one that is not trained by gradients is fitted to ``features (N, D)``, ``labels (N,)``."""


class GradientHead(Head):
    """A head that is trained by gradients, alone or together with the extractor."""

    epochs: int | None = Field(None, ge=1, description="epochs of tuning; null: as the task's recipe says")
    lr: float | None = Field(None, gt=0, description="learning rate of tuning; null: as the task's recipe says")

    def adapt(self, recipe: Recipe) -> Recipe:
        """Return the task's recipe with this head's epochs and learning rate.

        Milestones are counted in the recipe's own epochs: a head that has others goes by a cosine instead.
        """
        said: dict[str, Any] = {"epochs": self.epochs, "lr": self.lr}
        if self.epochs is not None and isinstance(recipe.schedule, tuple):
            said["schedule"] = "cosine"
        return recipe.changed(**{name: value for name, value in said.items() if value is not None})


class ScikitHead(Head):
    """A classifier of scikit-learn that is fitted to features; no gradient passes through it."""

    @field_validator("tuning")
    @classmethod
    def _leaves_the_extractor(cls, tuning: str) -> str:
        if tuning == "full":
            raise ValueError("this head passes no gradient to the extractor, so it takes partial only")
        return tuning


class OneLayer(GradientHead):
    """One fully connected layer."""

    name = "fcn1"
    aliases = ("1-fcn",)
    paper = PAPER
    variants = ("fcn1[tuning=full]",)

    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:  # noqa: ARG002
        """Return a freshly initialised layer."""
        with isolated(seed, "head"):
            return nn.Linear(features.shape[1], classes).to(features.device)


class TwoLayers(GradientHead):
    """Two fully connected layers with a ReLU between them."""

    name = "fcn2"
    aliases = ("2-fcn",)
    paper = PAPER
    variants = ("fcn2[tuning=full]",)

    hidden: int = Field(256, ge=1, description="units of the hidden layer")

    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:  # noqa: ARG002
        """Return freshly initialised layers."""
        with isolated(seed, "head"):
            layers = nn.Linear(features.shape[1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, classes)
            return nn.Sequential(*layers).to(features.device)


class NaiveBayes(ScikitHead):
    """Gaussian naive Bayes."""

    name = "bayes"
    paper = PAPER

    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:  # noqa: ARG002
        """Return the fitted classifier."""
        from sklearn.naive_bayes import GaussianNB

        return FittedHead(GaussianNB(), features, labels, classes)


class SupportVectors(ScikitHead):
    """A support vector machine with a radial kernel on standardised features."""

    name = "svm"
    paper = PAPER

    regularisation: float = Field(1.0, gt=0, description="C: smaller is a wider margin")

    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:  # noqa: ARG002
        """Return the fitted classifier."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        return FittedHead(make_pipeline(StandardScaler(), SVC(C=self.regularisation)), features, labels, classes)


class RandomForest(ScikitHead):
    """A random forest."""

    name = "random_forest"
    aliases = ("rf",)
    paper = PAPER

    trees: int = Field(100, ge=1, description="number of trees")

    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:
        """Return the fitted classifier."""
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(self.trees, random_state=derive(seed, "forest") % 2**32)
        return FittedHead(forest, features, labels, classes)


class FittedHead(nn.Module):
    """A fitted scikit-learn classifier as a module; no gradient passes through it.

    Logits are log-probabilities, or decision values where the classifier has no probabilities; a class that was not
    among the labels gets the lowest value there is.
    """

    def __init__(self, classifier: Any, features: Tensor, labels: Tensor, classes: int):
        super().__init__()
        self.classifier = classifier.fit(features.cpu().numpy(), labels.cpu().numpy())
        self.classes = classes

    @property
    def gives_probabilities(self) -> bool:
        """Whether the softmax of its logits is a probability; decision values are none."""
        return hasattr(self.classifier, "predict_proba")

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(N, K)``."""
        rows = features.detach().float().cpu().numpy()
        if self.gives_probabilities:
            found = np.log(self.classifier.predict_proba(rows).clip(1e-12))
        else:
            found = self.classifier.decision_function(rows)
        if found.ndim == 1:
            found = np.stack([-found, found], 1)
        logits = np.full((len(rows), self.classes), found.min() - 1, np.float32)
        logits[:, self.classifier.classes_] = found
        return torch.from_numpy(logits).to(features.device)


HEADS: Catalogue[Head] = Catalogue("head", [OneLayer, TwoLayers, NaiveBayes, SupportVectors, RandomForest])
