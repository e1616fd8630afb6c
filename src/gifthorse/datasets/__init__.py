"""The listed data sets."""

from gifthorse.core.configuration import Catalogue
from gifthorse.core.task import Dataset
from gifthorse.datasets.digits import Digits
from gifthorse.datasets.small_images import Cifar10, FashionMnist, Mnist

DATASETS: Catalogue[Dataset] = Catalogue("dataset", [Digits, Mnist, FashionMnist, Cifar10])
