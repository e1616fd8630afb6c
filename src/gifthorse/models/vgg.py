"""VGG with batch normalisation (Simonyan and Zisserman 2015); the convolutions are torchvision's, names and all."""

from collections import OrderedDict
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.seeds import isolated
from gifthorse.models.initialisation import he_normal


class Vgg(Architecture):
    """A plain convolutional network; ``letter`` is its column in the paper's Table 1.

    With the linear head, pooling rounds up, so that images below 32×32 come through five poolings; images whose sides
    are multiples of 32 are pooled as ever.
    """

    letter: ClassVar[str]

    width: int = Field(64, ge=1, description="channels of the first stage; the others have 2, 4, 8 and 8 times as many")
    head: Literal["linear", "torchvision"] = Field(
        "linear",
        description="linear: average pooling and one linear layer, as for CIFAR-10; torchvision: 7×7 pooling and three "
        "linear layers with dropout, as for ImageNet",
    )

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier."""
        from torchvision.models import vgg

        width, channels = self.width, shape[0]
        layout = [item if item == "M" else int(item) // 64 * width for item in vgg.cfgs[self.letter]]
        with isolated(seed, "initialise"):
            features = vgg.make_layers(layout, batch_norm=True)
            if channels != 3:
                features[0] = nn.Conv2d(channels, width, 3, padding=1)
            linear = self.head == "linear"
            side = 1 if linear else 7
            classifier = nn.Linear(8 * width, classes) if linear else _three_layers(392 * width, 64 * width, classes)
            network = nn.Sequential(
                OrderedDict(
                    features=features, avgpool=nn.AdaptiveAvgPool2d(side), flatten=nn.Flatten(), classifier=classifier
                )
            )
            he_normal(network)
            for layer in network.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, 0, 0.01)
                if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
                    nn.init.zeros_(layer.bias)
                if isinstance(layer, nn.MaxPool2d):
                    layer.ceil_mode = linear
        stages = [before for (before, _), (_, layer) in pairwise(features.named_children()) if _pools(layer)]
        return Classifier(
            network,
            mean=[0.5] * channels,
            std=[0.25] * channels,
            head="classifier" if linear else "classifier.6",
            stages=tuple(f"features.{name}" for name in stages),
        )


class Vgg13(Vgg):
    """VGG-13 with batch normalisation: 10 convolutions."""

    name = "vgg13"
    letter = "B"
    parameters = 9_416_010


class Vgg16(Vgg):
    """VGG-16 with batch normalisation: 13 convolutions."""

    name = "vgg16"
    letter = "D"
    parameters = 14_728_266
    variants = ("vgg16[head=torchvision]",)


class Vgg19(Vgg):
    """VGG-19 with batch normalisation: 16 convolutions."""

    name = "vgg19"
    letter = "E"
    parameters = 20_040_522


def _three_layers(inputs: int, hidden: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, classes),
    )


def _pools(layer: nn.Module) -> bool:
    return isinstance(layer, nn.MaxPool2d)
