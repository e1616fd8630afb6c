"""The listed architectures."""

from gifthorse.core.configuration import Catalogue
from gifthorse.core.task import Architecture
from gifthorse.models.resnet import ResNet18
from gifthorse.models.small_cnn import SmallCnn

ARCHITECTURES: Catalogue[Architecture] = Catalogue("model", [SmallCnn, ResNet18])
