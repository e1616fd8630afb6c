"""Class subsets of ImageNet and VGGFace2, as TrojanZoo and DHBE use them.

None of them can be downloaded freely: they are read from a folder of class folders, the whole data set's or just the
subset's. Where a folder has more classes than the subset, the same ones are drawn for every run.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field

from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import generator
from gifthorse.datasets.folder import PATH, SIZE, FolderDataset

# fish, bird, turtle, lizard, snake, spider, crab, dog, wolf, cat: the file of its classes in TrojanZoo's repository.
TROJANZOO_CLASSES = (
    "n01440764",
    "n01530575",
    "n01664065",
    "n01675722",
    "n01728572",
    "n01770081",
    "n01978287",
    "n02085620",
    "n02114367",
    "n02123045",
)


class ClassSubset(FolderDataset):
    """Shared choice of classes: all where the folder has just as many, drawn once and for all where it has more."""

    count: ClassVar[int]
    """Number of classes."""
    preferred: ClassVar[tuple[str, ...]] = ()
    """The classes to take where all of them are there."""

    def choose(self, found: Sequence[str]) -> Sequence[str]:
        """Return ``count`` classes in the order of their names, the same ones for every run."""
        if len(found) < self.count:
            raise RequestError(f"{self.name} needs {self.count} class folders; '{self.path}' has {len(found)}")
        if self.preferred and set(self.preferred) <= set(found):
            return sorted(self.preferred)
        drawn = torch.randperm(len(found), generator=generator(0, "dataset", self.name, "classes"))[: self.count]
        return [found[index] for index in sorted(drawn.tolist())]


class ImageNet10(ClassSubset):
    """Ten classes of ImageNet, 224×224 colour.

    TrojanZoo (Table 4) does not print which ones; the ten of its code are taken where the folder has them.
    """

    name = "imagenet10"
    title = "ImageNet, ten classes (Deng et al. 2009; TrojanZoo, Table 4)"
    advice = "or set path to a folder of ImageNet (image-net.org) or Imagenette"
    count = 10
    preferred = TROJANZOO_CLASSES

    path: str = Field("imagenet10", min_length=1, description=PATH)
    size: int = Field(224, ge=8, le=1024, description=SIZE)


class MiniImageNet(ClassSubset):
    """A hundred classes of ImageNet with 600 images each, 64×64 colour.

    Published for few-shot learning, with other classes in train/ than in val/ and test/: such a tree is taken as a
    whole and cut anew. The size is that of DHBE's code (its paper's text does not show it).
    """

    name = "mini_imagenet"
    title = "Mini-ImageNet (Vinyals et al. 2016; DHBE 5.1.1)"
    advice = "or set path to a folder of Mini-ImageNet's class folders"
    disjoint_parts = True
    count = 100

    path: str = Field("mini_imagenet", min_length=1, description=PATH)
    size: int = Field(64, ge=8, le=1024, description=SIZE)


class VggFace2Of20(ClassSubset):
    """Faces of 20 people, 224×224 colour. Which people is not published (TrojanZoo, Table 4): the draw is ours."""

    name = "vggface2_20"
    title = "VGGFace2, 20 identities (Cao et al. 2018; TrojanZoo, Table 4)"
    advice = "or set path to a folder of VGGFace2's identities"
    disjoint_parts = True
    count = 20

    path: str = Field("vggface2", min_length=1, description=PATH)
    size: int = Field(224, ge=8, le=1024, description=SIZE)


class VggFace2Of100(ClassSubset):
    """Faces of 100 random people, 64×64 colour. The draw is ours.

    Size and crop, the middle 64 of 84 pixels, are those of DHBE's code (its paper's text does not show them).
    """

    name = "vggface2_100"
    title = "VGGFace2, 100 identities (Cao et al. 2018; DHBE 5.2.3)"
    advice = "or set path to a folder of VGGFace2's identities"
    keep = 64 / 84
    disjoint_parts = True
    count = 100

    path: str = Field("vggface2", min_length=1, description=PATH)
    size: int = Field(64, ge=8, le=1024, description=SIZE)
