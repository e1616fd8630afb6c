"""A small convolutional network for a laptop."""

from collections import OrderedDict

from pydantic import Field
from torch import nn

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.seeds import isolated


class SmallCnn(Architecture):
    """Three convolution blocks, 2×2 pooling, an embedding layer with ReLU, a linear head."""

    name = "small_cnn"
    parameters = 40_794

    width: int = Field(
        16, ge=1, description="channels of the first block; the others have twice and four times as many"
    )
    embedding: int = Field(64, ge=1, description="units of the embedding, the penultimate layer")

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier."""

        def block(before: int, after: int, stride: int) -> nn.Sequential:
            convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())

        width = self.width
        with isolated(seed, "initialise"):
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                stage1=block(shape[0], width, 1),
                stage2=block(width, 2 * width, 2),
                stage3=block(2 * width, 4 * width, 2),
                pool=nn.AdaptiveAvgPool2d(2),
                flatten=nn.Flatten(),
                embedding=nn.Linear(16 * width, self.embedding),
                relu=nn.ReLU(),
                head=nn.Linear(self.embedding, classes),
            )
        half = [0.5] * shape[0]
        return Classifier(
            nn.Sequential(layers), mean=half, std=half, head="head", stages=("stage1", "stage2", "stage3")
        )
