"""Wide residual networks for small images (Zagoruyko and Komodakis 2016), named WRN-depth-widening."""

from collections import OrderedDict

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.seeds import isolated
from gifthorse.models.initialisation import he_normal

STAGES = ("stage1", "stage2", "stage3")
BLOCKS = "residual blocks of each of the three stages; the depth is 6 · blocks + 4"
WIDEN = "how many times wider than the stem the first stage is"


class WideResNet(Architecture):
    """Three stages of pre-activation blocks; the last stage ends with the final normalisation and ReLU."""

    width: int = Field(
        16, ge=1, description="channels of the stem; the stages have widen times 1, 2 and 4 times as many"
    )
    widen: int = Field(1, ge=1, description=WIDEN)
    blocks: int = Field(6, ge=1, description=BLOCKS)

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier."""
        with isolated(seed, "initialise"):
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                conv1=nn.Conv2d(shape[0], self.width, 3, padding=1, bias=False)
            )
            before = self.width
            for index, name in enumerate(STAGES):
                after = self.width * self.widen * 2**index
                first = PreActivationBlock(before, after, 1 if index == 0 else 2)
                layers[name] = nn.Sequential(
                    first, *(PreActivationBlock(after, after, 1) for _ in range(self.blocks - 1))
                )
                before = after
            last = layers[STAGES[-1]]
            last.add_module("bn", nn.BatchNorm2d(before))
            last.add_module("relu", nn.ReLU())
            layers.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, classes))
            network = nn.Sequential(layers)
            he_normal(network)
        channels = shape[0]
        return Classifier(network, mean=[0.5] * channels, std=[0.25] * channels, head="fc", stages=STAGES)


class Wrn16x1(WideResNet):
    """WRN-16-1: 16 layers, not widened."""

    name = "wrn_16_1"
    aliases = ("wrn16_1",)
    parameters = 175_066

    blocks: int = Field(2, ge=1, description=BLOCKS)


class Wrn40x1(WideResNet):
    """WRN-40-1: 40 layers, not widened."""

    name = "wrn_40_1"
    aliases = ("wrn40_1",)
    parameters = 563_930


class Wrn40x2(WideResNet):
    """WRN-40-2: 40 layers, twice as wide."""

    name = "wrn_40_2"
    aliases = ("wrn40_2",)
    parameters = 2_243_546

    widen: int = Field(2, ge=1, description=WIDEN)


class PreActivationBlock(nn.Module):
    """Normalise, ReLU, convolve, twice; a 1×1 convolution of the activated input where the shape changes."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(N, before, H, W)`` to ``(N, after, H / stride, W / stride)``."""
        active = relu(self.bn1(maps))
        change: Tensor = self.conv2(relu(self.bn2(self.conv1(active))))
        return change + (maps if self.shortcut is None else self.shortcut(active))
