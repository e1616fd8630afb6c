"""Real handwritten digits that ship inside scikit-learn: the data set that needs no folder and no network."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from gifthorse.core.images import Images, to_levels
from gifthorse.core.task import Dataset, Splits
from gifthorse.datasets.splits import cut


class Digits(Dataset):
    """1,797 real handwritten digits, 8×8 grey, enlarged bilinearly."""

    name = "digits"
    title = "Optical recognition of handwritten digits (UCI, scikit-learn's copy)"

    size: int = Field(16, ge=8, le=64, description="side length after enlarging, in pixels")
    train: int | None = Field(None, ge=1, description="training images; null: all that are left")
    holdout: int = Field(200, ge=1, description="images set aside for defenders")
    test: int = Field(400, ge=1, description="images for judging")

    def files(self) -> tuple[Path, ...]:
        """Return scikit-learn's file."""
        found = find_spec("sklearn")
        places = [] if found is None else found.submodule_search_locations or []
        return tuple(Path(place) / "datasets/data/digits.csv.gz" for place in places)

    def load(self, root: Path, *, download: bool = False) -> Splits:  # noqa: ARG002
        """Read the file of the installed scikit-learn; the folder is not used."""
        # Importing scikit-learn takes as long as importing torch does.
        (file,) = self.files()
        table = torch.from_numpy(np.loadtxt(file, dtype=np.uint8, delimiter=","))
        small = table[:, :-1].float().view(-1, 1, 8, 8) / 16
        large = torch.nn.functional.interpolate(small, size=(self.size, self.size), mode="bilinear")
        images = Images(to_levels(large), table[:, -1].long(), classes=10)
        parts = cut(images, {"test": self.test, "holdout": self.holdout, "train": self.train}, self.name)
        return Splits(**parts, class_names=tuple("0123456789"))
