"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, read by torchvision from a folder.

CIFAR's files are pickles by origin; torchvision opens them only when their checksums are the published ones.
"""

from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.task import Dataset, Splits
from gifthorse.datasets.splits import cut


class _TorchvisionDataset(Dataset):
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

    def load(self, root: Path, *, download: bool = False) -> Splits:
        """Read torchvision's layout under ``root``; downloads only when asked to."""
        from torchvision import datasets

        reader = getattr(datasets, self.reader)
        try:
            sources = [reader(root, train=train, download=download) for train in (True, False)]
        except (RuntimeError, OSError, EOFError, ValueError, TypeError, AssertionError) as error:
            where = (root / self.folder).resolve()
            problem = (str(error) or type(error).__name__).splitlines()[0]
            why = problem if where.exists() else "no such folder"
            raise RequestError(
                f"{self.name}: cannot read {where} ({why}); point --data-root or "
                f"GIFTHORSE_DATA at the folder that holds '{self.folder}', or add --download to fetch it there"
            ) from None
        learning, judging = (self._images(source) for source in sources)
        parts = cut(learning, {"holdout": self.holdout, "train": self.train}, self.name)
        test = cut(judging, {"test": self.test}, self.name)["test"]
        return Splits(**parts, test=test, class_names=tuple(sources[0].classes))

    @staticmethod
    def _images(source: "torch.utils.data.Dataset[object]") -> Images:
        data = torch.as_tensor(source.data)  # type: ignore[attr-defined]
        pixels = data.unsqueeze(1) if data.ndim == 3 else data.permute(0, 3, 1, 2)
        labels = torch.as_tensor(source.targets, dtype=torch.int64)  # type: ignore[attr-defined]
        return Images(pixels.contiguous(memory_format=torch.channels_last), labels, classes=len(source.classes))  # type: ignore[attr-defined]


class Mnist(_TorchvisionDataset):
    """70,000 handwritten digits, 28×28 grey."""

    name = "mnist"
    title = "MNIST (LeCun, Cortes, Burges)"
    reader = "MNIST"
    folder = "MNIST/raw"


class FashionMnist(_TorchvisionDataset):
    """70,000 pictures of clothing, 28×28 grey."""

    name = "fashion_mnist"
    aliases = ("fmnist",)
    title = "Fashion-MNIST (Xiao, Rasul, Vollgraf 2017)"
    reader = "FashionMNIST"
    folder = "FashionMNIST/raw"


class Cifar10(_TorchvisionDataset):
    """60,000 photographs of ten kinds of things, 32×32 colour."""

    name = "cifar10"
    title = "CIFAR-10 (Krizhevsky 2009)"
    reader = "CIFAR10"
    folder = "cifar-10-batches-py"


class Cifar100(_TorchvisionDataset):
    """60,000 photographs of a hundred kinds of things, 32×32 colour."""

    name = "cifar100"
    title = "CIFAR-100 (Krizhevsky 2009)"
    reader = "CIFAR100"
    folder = "cifar-100-python"
