"""Folders of images, one subfolder per class: any tree that torchvision's ImageFolder reads."""

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.contents import IMAGE_EXTENSIONS
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Dataset, Splits
from gifthorse.datasets.image_files import ImageFiles, read_splits
from gifthorse.datasets.splits import cut

PATH = "the folder, absolute or seen from the data root"
SIZE = "side length to which the images are resized, in pixels"
PARTS = ("train", "test", "val")
TEST_SHARE, HOLDOUT_SHARE = 5, 10


@dataclass(frozen=True, eq=False)
class Given:
    """All images of a folder: ``pixels`` are ``uint8 (N, C, H, W)``, ``labels`` ``int64 (N,)`` into ``class_names``.

    A folder without class folders has images alone: no labels, no names.
    """

    pixels: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]


class FolderDataset(Dataset):
    """Shared reader of a folder with one subfolder of images per class.

    ``train/`` beside ``test/`` or ``val/`` (Imagenette, ImageNet), each with the same class folders, are the training
    and the test images; any other tree is cut by a shuffle that is always the same. Images may lie deeper inside a
    class folder. Hidden files are left out. Links are followed as long as they stay inside the tree or the data root.
    """

    keep: ClassVar[float] = 1.0
    """Side of the centred square that is kept of each image, as a share of the shorter side."""
    disjoint_parts: ClassVar[bool] = False
    """Whether the data set is published with other classes in train/ than in val/ or test/."""
    advice: ClassVar[str] = "or set path"
    """What else to do where the folder is missing."""

    path: str = Field(".", min_length=1, description=PATH)
    size: int = Field(64, ge=8, le=1024, description=SIZE)
    train: int | None = Field(None, ge=1, description="training images; null: all that are left")
    holdout: int | None = Field(
        None, ge=1, description="training images set aside for defenders; null: a tenth of them"
    )
    test: int | None = Field(
        None, ge=1, description="images for judging; null: all of test/ or val/, a fifth of a tree without"
    )

    @abstractmethod
    def choose(self, found: Sequence[str]) -> Sequence[str]:
        """Return the classes to use out of those found, in the order of their labels."""

    def sources(self, root: Path) -> tuple[Path, ...]:
        """Return the folder."""
        return (root / Path(self.path).expanduser(),)

    def load(self, root: Path, *, download: bool = False) -> Splits:  # noqa: ARG002
        """Read the folder; nothing is ever downloaded."""
        where = self._where(root)
        try:
            names, learning, judging = self._files(where, (where, root.resolve()))
        except OSError as error:
            raise RequestError(f"{self.name}: cannot read {error.filename} ({error.strerror})") from None
        if judging is None:
            test = self.test or max(len(learning) // TEST_SHARE, 1)
            sizes = {"test": test, "holdout": self._holdout(len(learning) - test), "train": self.train}
            parts = cut(learning, sizes, self.name)
        else:
            parts = cut(learning, {"holdout": self._holdout(len(learning)), "train": self.train}, self.name)
            parts |= cut(judging, {"test": self.test}, self.name)
        return read_splits(parts, names, self.size, root, self.name, self.keep)

    def given(self, root: Path) -> Given:
        """Return every image of the folder, whatever part of it it lies in; nothing is cut off."""
        where = self._where(root)
        inside = where, root.resolve()
        try:
            parts = [part for part in self._parts(where, inside) if part]
            names = self.choose(sorted(set().union(*parts)))
            files = [
                flat_images(part[name], inside, label, len(names))
                for part in parts
                for label, name in enumerate(names)
                if name in part
            ]
            found = ImageFiles.joined(files) if files else flat_images(where, inside)
        except OSError as error:
            raise RequestError(f"{self.name}: cannot read {error.filename} ({error.strerror})") from None
        images = found.read(self.size, root, self.name, self.keep)
        return Given(images.pixels, images.labels if files else None, tuple(names))

    def _where(self, root: Path) -> Path:
        where = self.sources(root)[0].resolve()
        if not where.is_dir():
            raise RequestError(
                f"{self.name}: there is no folder {where}; point --data-root or GIFTHORSE_DATA at the folder that "
                f"holds '{self.path}', {self.advice}"
            )
        return where

    def _holdout(self, available: int) -> int:
        return self.holdout or max(available // HOLDOUT_SHARE, 1)

    def _files(self, where: Path, inside: tuple[Path, ...]) -> tuple[Sequence[str], ImageFiles, ImageFiles | None]:
        """Return the class names, the files to learn from, and those to judge by where the tree has a part for it."""
        learning, judging = self._parts(where, inside)
        if not learning:
            raise RequestError(
                f"{self.name}: {where} has no class folders; it needs one folder of images per class, "
                "or train/ and val/ with such folders"
            )
        names = self.choose(sorted(learning))
        if len(names) < 2:
            raise RequestError(f"{self.name}: {where} has {len(names)} class ('{names[0]}'); two or more are needed")
        return names, _list(learning, names, inside), _list(judging, names, inside) if judging else None

    def _parts(self, where: Path, inside: tuple[Path, ...]) -> tuple[dict[str, Path], dict[str, Path]]:
        """Return the class folders to learn from and those to judge by, which may be none."""
        top = _class_folders(where, inside)
        # A class may itself be called "train" or "test": a part of the tree is a folder that has folders.
        parts = {part: _class_folders(top[part], inside) for part in PARTS if part in top}
        parts = {part: folders for part, folders in parts.items() if folders}
        if "train" not in parts or (len(parts) == 1 and not top.keys() <= set(PARTS)):
            return top, {}
        learning = parts.pop("train")
        for judging in parts.values():
            if judging.keys() == learning.keys():
                return learning, judging
        for part, judging in parts.items():
            if self.disjoint_parts and judging.keys().isdisjoint(learning):
                learning = learning | judging
                continue
            odd = min(judging.keys() ^ learning.keys())
            raise RequestError(f"{self.name}: train/ and {part}/ in {where} differ: only one has a class '{odd}'")
        return learning, {}


class Folder(FolderDataset):
    """Any folder with one subfolder of images per class, read in colour and resized to squares.

    The shorter side is resized and the middle is kept. ``train/`` and ``test/`` or ``val/`` are used where they exist.
    """

    name = "folder"
    title = "A folder of images"
    variants = ("folder[classes=3]", "folder[classes=[cat,dog]]")

    classes: Annotated[int, Field(ge=2)] | tuple[str, ...] | None = Field(
        None, description='how many classes, the first in the order of names, or which, as ["cat","dog"]; null: all'
    )

    def choose(self, found: Sequence[str]) -> Sequence[str]:
        """Return the classes asked for, in the order they were asked for."""
        if self.classes is None:
            return found
        if isinstance(self.classes, int):
            if self.classes > len(found):
                raise RequestError(f"folder: classes={self.classes}, but {self.path} has {len(found)}")
            return found[: self.classes]
        unknown = [name for name in self.classes if name not in found]
        if unknown or len(set(self.classes)) < len(self.classes) or not self.classes:
            problem = f"there is no '{unknown[0]}'" if unknown else "each class must be named, and once"
            raise RequestError(f"folder: classes={list(self.classes)}: {problem}; found: {', '.join(found[:10])}")
        return self.classes


def _class_folders(folder: Path, inside: tuple[Path, ...]) -> dict[str, Path]:
    return {entry.name: Path(entry.path) for entry in _entries(folder, inside) if entry.is_dir()}


def _list(folders: Mapping[str, Path], names: Sequence[str], inside: tuple[Path, ...]) -> ImageFiles:
    return ImageFiles.joined(
        [flat_images(folders[name], inside, label, len(names)) for label, name in enumerate(names)]
    )


def flat_images(folder: Path, inside: tuple[Path, ...], label: int = 0, classes: int = 1) -> ImageFiles:
    """Return the images in a folder and its subfolders, all of one label; :class:`RequestError` where there are none.

    Links must stay inside one of ``inside``.
    """
    paths = tuple(image_paths(folder, inside))
    if not paths:
        raise RequestError(f"the folder {folder} has no images ({', '.join(IMAGE_EXTENSIONS)})")
    return ImageFiles(paths, torch.full((len(paths),), label), classes)


def image_paths(folder: Path, inside: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the image files in a folder and its subfolders, in order; links must stay inside one of ``inside``."""
    for entry in _entries(folder, inside):
        # A link to a folder may lead in a circle, and opening a pipe waits for ever: neither is followed.
        if entry.is_dir(follow_symlinks=False):
            yield from image_paths(Path(entry.path), inside)
        elif entry.name.lower().endswith(IMAGE_EXTENSIONS) and entry.is_file():
            yield Path(entry.path)


def _entries(folder: Path, inside: tuple[Path, ...]) -> list["os.DirEntry[str]"]:
    """Return what is in a folder, by name; a link that leads out is refused: it would bring in private files."""
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_symlink():
            target = Path(entry.path).resolve()
            if not target.exists() or not any(target.is_relative_to(allowed) for allowed in inside):
                raise RequestError(
                    f"the link {entry.path} leads to {target}, which is missing or outside of the data root"
                )
    return entries
