"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, read from a folder in torchvision's layout.

CIFAR's files are pickles by origin; torchvision opens them only when their checksums are the published ones.
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.task import Dataset, Splits
from gifthorse.datasets.splits import cut

_LARGEST = 1 << 30
"""Bytes of images that a file may announce."""


class _SmallImages(Dataset):
    """Shared reader: training images give the training set and the holdout, test images the test set."""

    reader: ClassVar[str]
    folder: ClassVar[str]

    train: int | None = Field(None, ge=1, description="training images; null: all that are left")
    holdout: int = Field(2500, ge=1, description="images of the training file set aside for defenders")
    test: int | None = Field(None, ge=1, description="test images; null: all")

    def sources(self, root: Path) -> tuple[Path, ...]:
        """Return the files in torchvision's folder; archives are not read."""
        where = root / self.folder
        found = sorted(where.iterdir()) if where.is_dir() else [where]
        return tuple(path for path in found if path.suffix != ".gz")

    def read(self, root: Path, download: bool) -> tuple[Images, Images, Sequence[str]]:
        """Return the training images, the test images and the names of the classes, as torchvision reads them."""
        from torchvision import datasets

        reader = getattr(datasets, self.reader)
        learning, judging = (reader(root, train=train, download=download) for train in (True, False))
        return self._images(learning), self._images(judging), learning.classes

    def load(self, root: Path, *, download: bool = False) -> Splits:
        """Read what is under ``root``; downloads only when asked to."""
        try:
            learning, judging, names = self.read(root, download)
        except (RuntimeError, OSError, EOFError, ValueError, TypeError, AssertionError, zlib.error) as error:
            where = (root / self.folder).resolve()
            problem = (str(error) or type(error).__name__).splitlines()[0]
            why = problem if where.exists() else "no such folder"
            raise RequestError(
                f"{self.name}: cannot read {where} ({why}); point --data-root or "
                f"GIFTHORSE_DATA at the folder that holds '{self.folder}', or add --download to fetch it there"
            ) from None
        parts = cut(learning, {"holdout": self.holdout, "train": self.train}, self.name)
        test = cut(judging, {"test": self.test}, self.name)["test"]
        return Splits(**parts, test=test, class_names=tuple(names))

    @staticmethod
    def _images(source: "torch.utils.data.Dataset[object]") -> Images:
        data = torch.as_tensor(source.data)  # type: ignore[attr-defined]
        pixels = data.unsqueeze(1) if data.ndim == 3 else data.permute(0, 3, 1, 2)
        labels = torch.as_tensor(source.targets, dtype=torch.int64)  # type: ignore[attr-defined]
        return Images(pixels.contiguous(memory_format=torch.channels_last), labels, classes=len(source.classes))  # type: ignore[attr-defined]


class _Idx(_SmallImages):
    """Shared reader of MNIST's four files, unpacked or still packed: those are read as they are."""

    parts: ClassVar[tuple[str, ...]] = ("train", "t10k")
    kinds: ClassVar[tuple[str, ...]] = ("images-idx3-ubyte", "labels-idx1-ubyte")

    def sources(self, root: Path) -> tuple[Path, ...]:
        """Return the four files, or torchvision's folder where one is missing."""
        found = self._files(root)
        return tuple(sorted(found.values())) if len(found) == 4 else (root / self.folder,)

    def read(self, root: Path, download: bool) -> tuple[Images, Images, Sequence[str]]:
        """Read the files; torchvision fetches them where one is missing."""
        from torchvision import datasets

        reader = getattr(datasets, self.reader)
        if download and len(self._files(root)) < 4:
            reader(root, download=True)
        found, names = self._files(root), reader.classes
        missing = [f"{part}-{kind}" for part in self.parts for kind in self.kinds if (part, kind) not in found]
        if missing:
            raise ValueError(f"no {missing[0]}, nor {missing[0]}.gz")
        images, labels = self.kinds
        learning, judging = (_grey(found[part, images], found[part, labels], len(names)) for part in self.parts)
        return learning, judging, names

    def _files(self, root: Path) -> dict[tuple[str, str], Path]:
        """Return where the files are by part and kind: in torchvision's folder, or in one of that name without it."""
        wanted = self.folder.partition("/")[0].casefold()
        alike = [root / self.folder, *(sorted(root.iterdir()) if root.is_dir() else ())]
        folders = [each for each in alike[1:] if "".join(filter(str.isalnum, each.name.casefold())) == wanted]
        places = [alike[0], *(place for folder in folders for place in (folder / "raw", folder))]
        found = {}
        for part in self.parts:
            for kind in self.kinds:
                names = [f"{part}-{kind}", f"{part}-{kind.replace('-idx', '.idx')}"]
                names += [f"{name}/{name}" for name in names]
                candidates = [place / f"{name}{end}" for end in ("", ".gz") for place in places for name in names]
                # Some archives have each file in a folder of its name.
                there = next((path for path in candidates if path.is_file()), None)
                if there is not None:
                    found[part, kind] = there
        return found


def _grey(images: Path, labels: Path, classes: int) -> Images:
    pixels, numbers = _read_idx(images), _read_idx(labels)
    if pixels.ndim != 3 or numbers.ndim != 1:
        raise ValueError(f"{images.name} and {labels.name} are not of images and labels")
    return Images(pixels.unsqueeze(1).contiguous(memory_format=torch.channels_last), numbers.long(), classes)


def _read_idx(path: Path) -> Tensor:
    """Return what a file in MNIST's format holds, unpacked in memory: no more bytes than it announces."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        start = file.read(4)
        axes = start[3] if start[:3] == b"\0\0\x08" and len(start) == 4 else 0
        header = file.read(4 * axes)
        if not 1 <= axes <= 3 or len(header) < 4 * axes:
            raise ValueError(f"{path.name} is not in MNIST's format")
        shape = np.frombuffer(header, ">u4").tolist()
        count = math.prod(shape)
        content = file.read(count + 1) if count <= _LARGEST else b""
    if len(content) != count:
        raise ValueError(f"{path.name} does not hold the {count} bytes that it announces")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape).copy())


class Mnist(_Idx):
    """70,000 handwritten digits, 28×28 grey."""

    name = "mnist"
    title = "MNIST (LeCun, Cortes, Burges)"
    reader = "MNIST"
    folder = "MNIST/raw"


class FashionMnist(_Idx):
    """70,000 pictures of clothing, 28×28 grey."""

    name = "fashion_mnist"
    aliases = ("fmnist",)
    title = "Fashion-MNIST (Xiao, Rasul, Vollgraf 2017)"
    reader = "FashionMNIST"
    folder = "FashionMNIST/raw"


class Cifar10(_SmallImages):
    """60,000 photographs of ten kinds of things, 32×32 colour."""

    name = "cifar10"
    title = "CIFAR-10 (Krizhevsky 2009)"
    reader = "CIFAR10"
    folder = "cifar-10-batches-py"


class Cifar100(_SmallImages):
    """60,000 photographs of a hundred kinds of things, 32×32 colour."""

    name = "cifar100"
    title = "CIFAR-100 (Krizhevsky 2009)"
    reader = "CIFAR100"
    folder = "cifar-100-python"
