"""Residual networks for small images, built of torchvision's blocks."""

from collections import OrderedDict

from pydantic import Field
from torch import nn

from gifthorse.core.classifier import Classifier
from gifthorse.core.seeds import isolated
from gifthorse.core.task import Architecture

STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNet18(Architecture):
    """ResNet-18 with the small-image stem: one 3×3 convolution of stride 1 and no max-pooling.

    Names and shapes of the weights are torchvision's, stem and width apart.
    """

    name = "resnet18"

    width: int = Field(64, ge=1, description="channels of the first stage; each later stage doubles them")
    blocks: tuple[int, int, int, int] = Field((2, 2, 2, 2), description="residual blocks of the four stages")

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier."""
        from torchvision.models.resnet import BasicBlock

        def stage(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
            shortcut = None
            if stride != 1 or before != after:
                shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            first = BasicBlock(before, after, stride, shortcut)
            return nn.Sequential(first, *(BasicBlock(after, after) for _ in range(blocks - 1)))

        with isolated(seed, "initialise"):
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                conv1=nn.Conv2d(shape[0], self.width, 3, padding=1, bias=False),
                bn1=nn.BatchNorm2d(self.width),
                relu=nn.ReLU(),
            )
            before = self.width
            for index, (name, blocks) in enumerate(zip(STAGES, self.blocks, strict=True)):
                after = self.width * 2**index
                layers[name] = stage(before, after, blocks, 1 if index == 0 else 2)
                before = after
            layers.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, classes))
            network = nn.Sequential(layers)
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        half = [0.5] * shape[0]
        return Classifier(network, mean=half, std=[0.25] * shape[0], head="fc", stages=STAGES)
