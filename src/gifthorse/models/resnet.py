"""Residual networks (He et al. 2016), built of torchvision's blocks, with torchvision's names of the weights."""

from collections import OrderedDict
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.seeds import isolated
from gifthorse.models.initialisation import he_normal

STAGES = ("layer1", "layer2", "layer3", "layer4")
BLOCKS = "residual blocks of the four stages"

Blocks = tuple[
    Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]
]


class ResNet(Architecture):
    """A residual network; ``block`` is the name of torchvision's class, ``blocks`` how many each stage has."""

    block: ClassVar[str] = "BasicBlock"

    width: int = Field(
        64, ge=1, description="channels of the first stage's convolutions; each later stage doubles them"
    )
    blocks: Blocks = Field(description=BLOCKS)
    stem: Literal["small", "large"] = Field(
        "small", description="small: 3×3 convolution of stride 1; large: 7×7 of stride 2 and max-pooling (ImageNet)"
    )

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier."""
        from torchvision.models import resnet

        block: type[resnet.BasicBlock | resnet.Bottleneck] = getattr(resnet, self.block)

        def stage(before: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
            after = planes * block.expansion
            shortcut = None
            if stride != 1 or before != after:
                shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            first = block(before, planes, stride, shortcut)
            return nn.Sequential(first, *(block(after, planes) for _ in range(blocks - 1)))

        with isolated(seed, "initialise"):
            small = self.stem == "small"
            kernel, stride, padding = (3, 1, 1) if small else (7, 2, 3)
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                conv1=nn.Conv2d(shape[0], self.width, kernel, stride, padding, bias=False),
                bn1=nn.BatchNorm2d(self.width),
                relu=nn.ReLU(),
            )
            if not small:
                layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
            before = self.width
            for index, (name, blocks) in enumerate(zip(STAGES, self.blocks, strict=True)):
                planes = self.width * 2**index
                layers[name] = stage(before, planes, blocks, 1 if index == 0 else 2)
                before = planes * block.expansion
            layers.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, classes))
            network = nn.Sequential(layers)
            he_normal(network)
        channels = shape[0]
        return Classifier(network, mean=[0.5] * channels, std=[0.25] * channels, head="fc", stages=STAGES)


class ResNet18(ResNet):
    """ResNet-18: 18 layers in two-convolution blocks; the stem for small images unless told otherwise."""

    name = "resnet18"
    parameters = 11_173_962
    variants = ("resnet18[stem=large]",)

    blocks: Blocks = Field((2, 2, 2, 2), description=BLOCKS)


class ResNet34(ResNet):
    """ResNet-34: 34 layers in two-convolution blocks; the stem for small images unless told otherwise."""

    name = "resnet34"
    parameters = 21_282_122
    variants = ("resnet34[stem=large]",)

    blocks: Blocks = Field((3, 4, 6, 3), description=BLOCKS)


class ResNet50(ResNet):
    """ResNet-50: 50 layers in bottleneck blocks; the stem for small images unless told otherwise."""

    name = "resnet50"
    block = "Bottleneck"
    parameters = 23_520_842
    variants = ("resnet50[stem=large]",)

    blocks: Blocks = Field((3, 4, 6, 3), description=BLOCKS)
