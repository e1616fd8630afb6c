"""A data set: stripes in noise, to be told apart by how many there are."""

from math import tau
from pathlib import Path

import torch
from pydantic import Field

from gifthorse import Dataset, Images, Splits
from gifthorse.core.images import to_levels
from gifthorse.core.seeds import generator
from gifthorse.datasets.splits import cut


class Stripes(Dataset):
    """Grey stripes, one to six of them, at any place."""

    name = "toy_stripes"
    title = "Stripes in noise"

    size: int = Field(16, ge=12, description="side length in pixels")
    count: int = Field(1200, ge=300, description="images, a third of them set aside")
    noise: float = Field(0.1, ge=0, le=1, description="standard deviation of the noise")

    def load(self, root: Path, *, download: bool = False) -> Splits:
        """Draw the images; the folder is not used."""
        random = generator(0, self.name)
        labels = torch.arange(self.count) % 6
        places, phases = torch.arange(self.size) / self.size, torch.rand(self.count, 1, generator=random)
        rows = 0.5 + 0.3 * torch.sin(tau * (places * (labels + 1).unsqueeze(1) + phases))
        noise = self.noise * torch.randn(self.count, 1, self.size, self.size, generator=random)
        images = Images(to_levels(rows[:, None, None, :] + noise), labels, classes=6)
        parts = cut(images, {"test": self.count // 5, "holdout": self.count // 8, "train": None}, self.name)
        return Splits(**parts, class_names=("one", "two", "three", "four", "five", "six"))
