"""An architecture: a perceptron with one hidden layer."""

from math import prod

from pydantic import Field
from torch import nn

from gifthorse import Architecture, Classifier
from gifthorse.core.seeds import isolated


class Perceptron(Architecture):
    """Two linear layers."""

    name = "toy_perceptron"

    hidden: int = Field(64, ge=1, description="units of the hidden layer")

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier."""
        with isolated(seed, "initialise"):
            hidden, head = nn.Linear(prod(shape), self.hidden), nn.Linear(self.hidden, classes)
        half = [0.5] * shape[0]
        network = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), head)
        return Classifier(network, mean=half, std=half, head="3", stages=())
