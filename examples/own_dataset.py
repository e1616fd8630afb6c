"""A data set of your own: images and labels that lie as arrays in a NumPy file.

Run:  python examples/own_dataset.py
or    gifthorse run --plugin examples/own_dataset.py --dataset 'arrays[path=my_images.npz]' --attack badnets
"""

import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from gifthorse import Dataset, Images, RequestError, Runner, Splits, Store, pick_device, resolve
from gifthorse.datasets.splits import cut


class Arrays(Dataset):
    """Images of a NumPy file: ``images`` uint8 (N, H, W) or (N, H, W, 3), ``labels`` integers (N,) from 0."""

    name = "arrays"
    title = "Arrays of a NumPy file"

    path: str = Field("images.npz", min_length=1, description="the file, absolute or seen from the data root")
    holdout: int = Field(200, ge=1, description="images set aside for defenders")
    test: int = Field(300, ge=1, description="images for judging")

    def sources(self, root: Path) -> tuple[Path, ...]:
        """Return the file: another content of it is another data set."""
        return (root / self.path,)

    def load(self, root: Path, *, download: bool = False) -> Splits:
        """Read the file and cut its images into three sets, always the same."""
        (file,) = self.sources(root)
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                pixels, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long()
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise RequestError(f"{self.name}: cannot read 'images' and 'labels' of {file}: {error}") from None
        pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.movedim(-1, 1)
        classes = max(labels.tolist(), default=0) + 1
        sizes = {"test": self.test, "holdout": self.holdout, "train": None}
        parts = cut(Images(pixels, labels, classes), sizes, self.name)
        return Splits(**parts, class_names=tuple(map(str, range(classes))))


def main() -> None:
    """Write such a file, of scikit-learn's digits, and plant a backdoor in a classifier of it."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    cell = resolve(dataset="digits", attack="badnets", profile="smoke")
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "my_images.npz", images=images, labels=digits.target)
        runner = Runner(Store(Path(folder) / "runs"), Path(folder), pick_device())
        metrics = runner.run(replace(cell, dataset=Arrays(path="my_images.npz"))).metrics
        print(f"accuracy {metrics['attack.acc']:.3f}, attack success {metrics['attack.asr']:.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
