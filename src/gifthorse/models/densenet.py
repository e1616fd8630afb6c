"""DenseNet-121 (Huang et al. 2017); the blocks are torchvision's, names and all."""

from collections import OrderedDict
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.seeds import isolated

STAGES = ("features.denseblock1", "features.denseblock2", "features.denseblock3", "features.relu5")

Count = Annotated[int, Field(ge=1)]


class DenseNet121(Architecture):
    """DenseNet-121: four densely connected blocks; the stem for small images unless told otherwise.

    The last stage is taken after the final normalisation and ReLU, so that its channels are what the head averages.
    """

    name = "densenet121"
    aliases = ("densenet",)
    parameters = 6_956_426
    variants = ("densenet121[stem=large]",)

    width: int = Field(64, ge=2, description="channels of the stem")
    growth_rate: int = Field(32, ge=1, description="channels that each layer adds")
    blocks: tuple[Count, Count, Count, Count] = Field((6, 12, 24, 16), description="layers of the four dense blocks")
    stem: Literal["small", "large"] = Field(
        "small", description="small: 3×3 convolution of stride 1; large: 7×7 of stride 2 and max-pooling (ImageNet)"
    )

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier."""
        from torchvision.models import DenseNet

        channels = shape[0]
        with isolated(seed, "initialise"):
            made = DenseNet(self.growth_rate, self.blocks, self.width, num_classes=classes)
            features = made.features
            if self.stem == "small":
                features.conv0 = nn.Conv2d(channels, self.width, 3, padding=1, bias=False)
                features.pool0 = nn.Identity()
            elif channels != 3:
                features.conv0 = nn.Conv2d(channels, self.width, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(features.conv0.weight)
            features.add_module("relu5", nn.ReLU())
        network = nn.Sequential(
            OrderedDict(
                features=features,
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classifier=made.classifier,
            )
        )
        return Classifier(network, mean=[0.5] * channels, std=[0.25] * channels, head="classifier", stages=STAGES)
