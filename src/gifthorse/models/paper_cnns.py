"""The two networks that the dynamic-backdoor paper builds itself (Salem et al. 2022, arXiv:2003.03675, section 4.2).

The paper gives the number of layers and that there is dropout; sizes, kernels, pooling and rates are not printed. For
MNIST they are those of PyTorch's own MNIST example, which has the same layers. For CelebA they are ours: 3×3
convolutions of 32, 64 and 128 channels, each with 2×2 pooling, 4×4 average pooling, hidden layers of 512 to 64 units.
"""

from collections import OrderedDict

from pydantic import Field
from torch import nn

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import isolated
from gifthorse.models.initialisation import he_normal

DROPOUT = "share of units dropped after each hidden linear layer; half as much after the convolutions"


class CnnMnist(Architecture):
    """Two convolutions and two linear layers with dropout: the dynamic-backdoor paper's network for MNIST."""

    name = "cnn_mnist"
    parameters = 1_626_442

    width: int = Field(
        32, ge=1, description="channels of the first convolution; twice as many in the second, 4 times as many units"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description=DROPOUT)

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier; its linear layers fit images of this shape only."""
        channels, height, width = shape
        if min(height, width) < 6:
            raise RequestError(f"{self.name} needs images of 6×6 pixels at least; these have {height}×{width}")
        pixels = (height - 4) // 2 * ((width - 4) // 2)
        with isolated(seed, "initialise"):
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                stage1=nn.Sequential(nn.Conv2d(channels, self.width, 3), nn.ReLU()),
                stage2=nn.Sequential(nn.Conv2d(self.width, 2 * self.width, 3), nn.ReLU(), nn.MaxPool2d(2)),
                dropout=nn.Dropout(self.dropout / 2),
                flatten=nn.Flatten(),
                fc1=_hidden(pixels * 2 * self.width, 4 * self.width, self.dropout),
                fc2=nn.Linear(4 * self.width, classes),
            )
            network = nn.Sequential(layers)
            he_normal(network)
        return Classifier(
            network, mean=[0.5] * channels, std=[0.25] * channels, head="fc2", stages=("stage1", "stage2")
        )


class CnnCelebA(Architecture):
    """Three convolutions and five linear layers with dropout: the dynamic-backdoor paper's network for CelebA.

    Nothing in it normalises: a learning rate of 0.1 is too high for it, 0.03 is not.
    """

    name = "cnn_celeba"
    parameters = 1_315_466

    width: int = Field(
        32,
        ge=1,
        description="channels of the first convolution; the others, and the hidden layers, are multiples of it",
    )
    dropout: float = Field(0.2, ge=0, lt=1, description=DROPOUT)

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier."""

        def stage(before: int, after: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))

        channels, width = shape[0], self.width
        with isolated(seed, "initialise"):
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                stage1=stage(channels, width),
                stage2=stage(width, 2 * width),
                stage3=stage(2 * width, 4 * width),
                pool=nn.AdaptiveAvgPool2d(4),
                dropout=nn.Dropout(self.dropout / 2),
                flatten=nn.Flatten(),
            )
            units = 64 * width
            for index, after in enumerate((16 * width, 8 * width, 4 * width, 2 * width), 1):
                layers[f"fc{index}"] = _hidden(units, after, self.dropout)
                units = after
            layers["fc5"] = nn.Linear(units, classes)
            network = nn.Sequential(layers)
            he_normal(network)
        return Classifier(
            network, mean=[0.5] * channels, std=[0.25] * channels, head="fc5", stages=("stage1", "stage2", "stage3")
        )


def _hidden(before: int, after: int, dropout: float) -> nn.Sequential:
    layer = nn.Linear(before, after)
    # torch's own start shrinks what passes through; five such layers without normalisation would not begin to learn.
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.ReLU(), nn.Dropout(dropout))
