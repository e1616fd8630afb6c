"""German traffic signs, in torchvision's layout."""

from pathlib import Path

import torch
from pydantic import Field

from gifthorse.core.errors import RequestError
from gifthorse.core.task import Dataset, Splits
from gifthorse.datasets.image_files import ImageFiles, read_splits
from gifthorse.datasets.splits import cut

CLASSES = 43


class Gtsrb(Dataset):
    """39,270 photographs of 43 kinds of traffic signs, resized to 32×32 colour (TrojanZoo, Table 4).

    The signs fill their nearly square pictures, so these are stretched and nothing is cropped.
    """

    name = "gtsrb"
    title = "German Traffic Sign Recognition Benchmark (Stallkamp et al. 2011)"

    size: int = Field(32, ge=8, le=256, description="side length to which the signs are resized, in pixels")
    train: int | None = Field(None, ge=1, description="training images; null: all that are left")
    holdout: int = Field(2500, ge=1, description="training images set aside for defenders")
    test: int | None = Field(None, ge=1, description="test images; null: all")

    def sources(self, root: Path) -> tuple[Path, ...]:
        """Return the folders of images and the list of test labels."""
        where = root / "gtsrb"
        return where / "GTSRB/Training", where / "GTSRB/Final_Test/Images", where / "GT-final_test.csv"

    def load(self, root: Path, *, download: bool = False) -> Splits:
        """Read torchvision's layout under ``root``; downloads only when asked to."""
        from torchvision.datasets import GTSRB

        where = (root / "gtsrb").resolve()
        if (where / "Train").is_dir() and not (where / "GTSRB").exists() and not download:
            raise RequestError(
                f"gtsrb: {where} is in Kaggle's layout, which --dataset 'folder[path=gtsrb,size={self.size}]' reads"
            )
        try:
            # The list is the reader's own; opening its images one by one is all that its public face offers.
            samples = [GTSRB(where.parent, split, download=download)._samples for split in ("train", "test")]
        except (RuntimeError, OSError, KeyError, ValueError) as error:
            raise RequestError(
                f"gtsrb: cannot read {where} ({str(error).splitlines()[0]}); point --data-root or GIFTHORSE_DATA at "
                "the folder that holds 'gtsrb', or add --download to fetch it there"
            ) from None
        for part, found in zip(("Training", "Final_Test"), samples, strict=True):
            # torchvision numbers the folders that are there: a missing one would shift every label after it.
            present = {label for _, label in found}
            if not present <= set(range(CLASSES)) or (part == "Training" and len(present) < CLASSES):
                raise RequestError(f"gtsrb: {where / 'GTSRB' / part} has {len(present)} of {CLASSES} classes")
        learning, judging = (
            ImageFiles(tuple(Path(path) for path, _ in found), torch.tensor([label for _, label in found]), CLASSES)
            for found in samples
        )
        parts = cut(learning, {"holdout": self.holdout, "train": self.train}, self.name)
        parts |= cut(judging, {"test": self.test}, self.name)
        names = [f"{label:05}" for label in range(CLASSES)]
        return read_splits(parts, names, self.size, root, self.name, keep=None)
