"""Celebrities' faces by three attributes, in torchvision's layout."""

from itertools import compress, product
from pathlib import Path

import torch
from pydantic import Field

from gifthorse.core.errors import RequestError
from gifthorse.core.task import Dataset, Splits
from gifthorse.datasets.image_files import ImageFiles, read_splits
from gifthorse.datasets.splits import cut

ATTRIBUTES = ("Heavy_Makeup", "Mouth_Slightly_Open", "Smiling")
CLASSES = tuple("+".join(compress(ATTRIBUTES, signs)) or "none" for signs in product((0, 1), repeat=len(ATTRIBUTES)))
IMAGES, LABELS, PARTITION = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"


class CelebA8(Dataset):
    """Faces in the eight classes heavy make-up × mouth slightly open × smiling, 64×64 colour, imbalanced.

    The class is 4·make-up + 2·open mouth + smiling, the three most balanced attributes (Dynamic Backdoors, 4.1). The
    paper scales the images and draws some for training and some for testing; the size and the numbers here are ours.
    Training images and holdout come from CelebA's training partition, test images from its test partition, so that
    no person is in both.
    """

    name = "celeba8"
    aliases = ("celeba",)
    title = "CelebA, three attributes (Liu et al. 2015)"

    size: int = Field(64, ge=8, le=256, description="side length to which the faces are scaled, in pixels")
    train: int | None = Field(10_000, ge=1, description="training images; null: all that are left")
    holdout: int = Field(2500, ge=1, description="images of the training partition set aside for defenders")
    test: int | None = Field(10_000, ge=1, description="test images; null: all")

    def sources(self, root: Path) -> tuple[Path, ...]:
        """Return the folder of images and the lists of labels and parts."""
        return tuple(root / "celeba" / part for part in (IMAGES, LABELS, PARTITION))

    def load(self, root: Path, *, download: bool = False) -> Splits:
        """Read the aligned images, the attributes and the partition; downloads only when asked to."""
        where = (root / "celeba").resolve()
        try:
            if download and not all((where / part).exists() for part in (IMAGES, LABELS, PARTITION)):
                from torchvision.datasets import CelebA

                CelebA(root, download=True)
            learning, judging = _files(where)
        except (RuntimeError, OSError, KeyError, ValueError) as error:
            raise RequestError(
                f"celeba8: cannot read {where} ({str(error).splitlines()[0]}); point --data-root or GIFTHORSE_DATA at "
                f"the folder that holds 'celeba' with {IMAGES}/, {LABELS} and {PARTITION}, or add --download to fetch "
                "them there (with gdown installed)"
            ) from None
        parts = cut(learning, {"holdout": self.holdout, "train": self.train}, self.name)
        parts |= cut(judging, {"test": self.test}, self.name)
        return read_splits(parts, CLASSES, self.size, root, self.name, keep=None)


def _files(where: Path) -> tuple[ImageFiles, ImageFiles]:
    """Return the training and the test partition; ``ValueError`` where the lists do not fit together."""
    count, header, *rows = (where / LABELS).read_text().splitlines()
    if len(rows) != int(count):
        raise ValueError(f"{LABELS} announces {count.strip()} images and lists {len(rows)}")
    columns = [header.split().index(attribute) + 1 for attribute in ATTRIBUTES]
    partition = dict(line.split() for line in (where / PARTITION).read_text().splitlines())
    listed: dict[str, list[tuple[Path, int]]] = {"0": [], "1": [], "2": []}
    for row in rows:
        name, *signs = fields = row.split()
        if len(signs) != len(header.split()) or "/" in name:
            raise ValueError(f"{LABELS} has a line that begins with '{row[:20]}'")
        label = sum((fields[column] == "1") << shift for column, shift in zip(columns, (2, 1, 0), strict=True))
        listed[partition[name]].append((where / IMAGES / name, label))

    def files(part: str) -> ImageFiles:
        paths, labels = zip(*listed[part], strict=True) if listed[part] else ((), ())
        return ImageFiles(paths, torch.tensor(labels, dtype=torch.int64), len(CLASSES))

    return files("0"), files("2")
