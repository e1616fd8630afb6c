"""The listed data sets."""

from gifthorse.core.configuration import Catalogue
from gifthorse.core.task import Dataset
from gifthorse.datasets.celeba import CelebA8
from gifthorse.datasets.class_subsets import ImageNet10, MiniImageNet, VggFace2Of20, VggFace2Of100
from gifthorse.datasets.digits import Digits
from gifthorse.datasets.folder import Folder
from gifthorse.datasets.gtsrb import Gtsrb
from gifthorse.datasets.small_images import Cifar10, Cifar100, FashionMnist, Mnist

DATASETS: Catalogue[Dataset] = Catalogue(
    "dataset",
    [
        Digits,
        Mnist,
        FashionMnist,
        Cifar10,
        Cifar100,
        Gtsrb,
        CelebA8,
        ImageNet10,
        MiniImageNet,
        VggFace2Of20,
        VggFace2Of100,
        Folder,
    ],
)
