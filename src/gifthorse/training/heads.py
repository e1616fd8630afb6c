"""Downstream heads on the features of a pre-trained network.

Paper: TrojanZoo, section 5.2.3 and Table 6 (1-FCN, 2-FCN, Bayes, SVM, random forest).
Differs: the paper prints no settings: fully connected heads are trained as the task's recipe says; the others have
    scikit-learn's defaults; features are standardised for the support vector machine.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.configuration import Catalogue, Configuration
from gifthorse.core.seeds import derive, isolated


class Head(Configuration):
    """Makes a module that maps features ``(N, D)`` to logits ``(N, K)``."""

    @abstractmethod
    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:
        """Return the head; one that is not trained by gradients is fitted to ``features (N, D)``, ``labels (N,)``."""


class OneLayer(Head):
    """One fully connected layer."""

    name = "fcn1"
    aliases = ("1-fcn",)

    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:  # noqa: ARG002
        """Return a freshly initialised layer."""
        with isolated(seed, "head"):
            return nn.Linear(features.shape[1], classes).to(features.device)


class TwoLayers(Head):
    """Two fully connected layers with a ReLU between them."""

    name = "fcn2"
    aliases = ("2-fcn",)

    hidden: int = Field(256, ge=1, description="units of the hidden layer")

    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:  # noqa: ARG002
        """Return freshly initialised layers."""
        with isolated(seed, "head"):
            layers = nn.Linear(features.shape[1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, classes)
            return nn.Sequential(*layers).to(features.device)


class NaiveBayes(Head):
    """Gaussian naive Bayes."""

    name = "bayes"

    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:  # noqa: ARG002
        """Return the fitted classifier."""
        from sklearn.naive_bayes import GaussianNB

        return FittedHead(GaussianNB(), features, labels, classes)


class SupportVectors(Head):
    """A support vector machine with a radial kernel on standardised features."""

    name = "svm"

    regularisation: float = Field(1.0, gt=0, description="C: smaller is a wider margin")

    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:  # noqa: ARG002
        """Return the fitted classifier."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        return FittedHead(make_pipeline(StandardScaler(), SVC(C=self.regularisation)), features, labels, classes)


class RandomForest(Head):
    """A random forest."""

    name = "random_forest"
    aliases = ("rf",)

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

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(N, K)``."""
        rows = features.detach().float().cpu().numpy()
        if hasattr(self.classifier, "predict_proba"):
            found = np.log(self.classifier.predict_proba(rows).clip(1e-12))
        else:
            found = self.classifier.decision_function(rows)
        if found.ndim == 1:
            found = np.stack([-found, found], 1)
        logits = np.full((len(rows), self.classes), found.min() - 1, np.float32)
        logits[:, self.classifier.classes_] = found
        return torch.from_numpy(logits).to(features.device)


HEADS: Catalogue[Head] = Catalogue("head", [OneLayer, TwoLayers, NaiveBayes, SupportVectors, RandomForest])
