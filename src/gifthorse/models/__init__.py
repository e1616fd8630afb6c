"""The listed architectures."""

from gifthorse.core.architecture import Architecture
from gifthorse.core.configuration import Catalogue
from gifthorse.models.densenet import DenseNet121
from gifthorse.models.library import Timm, Torchvision
from gifthorse.models.paper_cnns import CnnCelebA, CnnMnist
from gifthorse.models.resnet import ResNet18, ResNet34, ResNet50
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.models.vgg import Vgg13, Vgg16, Vgg19
from gifthorse.models.wide_resnet import Wrn16x1, Wrn40x1, Wrn40x2

ARCHITECTURES: Catalogue[Architecture] = Catalogue(
    "model",
    [
        SmallCnn,
        ResNet18,
        ResNet34,
        ResNet50,
        Vgg13,
        Vgg16,
        Vgg19,
        DenseNet121,
        Wrn16x1,
        Wrn40x1,
        Wrn40x2,
        CnnMnist,
        CnnCelebA,
        Torchvision,
        Timm,
    ],
)
