"""Folders of images, one subfolder per class: any tree that torchvision's ImageFolder reads, and some more."""

import logging
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError, ValidationError
from torch import Tensor

from gifthorse.core.contents import IMAGE_EXTENSIONS, seen_once
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Dataset, Splits
from gifthorse.datasets.class_lists import EXTENSIONS as LISTS
from gifthorse.datasets.image_files import MAX_PIXELS, ImageFiles, Size, read_splits
from gifthorse.datasets.names import natural_order, quoted
from gifthorse.datasets.splits import cut_by_class
from gifthorse.datasets.tree import Classes, Tree, image_paths, read_tree

log = logging.getLogger("gifthorse")

PATH = "the folder, absolute or seen from the data root"
SIZE = "side length to which the images are resized, in pixels"
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

    ``train/`` beside ``test/`` or ``val/``, in any spelling, each with the same class folders or a list that tells the
    classes, are the training and the test images (:func:`read_tree`); where both ``test/`` and ``val/`` are there, the
    former judges. Any other tree is cut by a shuffle that is always the same, every class in proportion. Classes are
    in natural order. Images may lie deeper inside a class folder. Hidden files are left out. Links are followed as
    long as they stay inside the tree or the data root.
    """

    keep: ClassVar[float] = 1.0
    """Side of the centred square that is kept of each image, as a share of the shorter side."""
    disjoint_parts: ClassVar[bool] = False
    """Whether the data set is published with other classes in train/ than in val/ or test/."""
    advice: ClassVar[str] = "or set path"
    """What else to do where the folder is missing."""

    path: str = Field(".", min_length=1, description=PATH)
    size: Size = Field(64, description=SIZE)
    train: int | None = Field(None, ge=1, description="training images; null: all that are left")
    holdout: int | None = Field(
        None,
        ge=1,
        description="training images set aside for defenders; null: a tenth of them, one of each class or more",
    )
    test: int | None = Field(
        None, ge=1, description="images for judging; null: all of test/ or val/, a fifth of a tree without"
    )

    @abstractmethod
    def choose(self, found: Sequence[str]) -> Sequence[str]:
        """Return the classes to use out of those found, in the order of their labels."""

    def asked_channels(self) -> int:
        """Return how many channels the images are to have."""
        return 3

    def asked_pixels(self) -> int:
        """Return how many pixels an image may have to be decoded."""
        return MAX_PIXELS

    def asked_classes(self) -> Collection[str]:
        """Return the classes that the request names, if it does."""
        return ()

    def sources(self, root: Path) -> tuple[Path, ...]:
        """Return the folder, the lists in it that tell classes, and the names that one more would have."""
        where = root / Path(self.path).expanduser()
        try:
            tree = seen_once((where, self), lambda: self._tree(root))
            return where, *tree.lists, *(folder / f"*{end}" for folder in tree.listless for end in LISTS)
        except (RequestError, OSError):
            return (where,)

    def load(self, root: Path, *, download: bool = False) -> Splits:  # noqa: ARG002
        """Read the folder; nothing is ever downloaded."""
        try:
            tree = self._tree(root)
            if tree.problem:
                raise RequestError(f"{self.name}: {tree.problem}")
            names, learning, judging = self._files(tree, self._inside(root))
        except OSError as error:
            raise RequestError(f"{self.name}: cannot read {error.filename} ({error.strerror})") from None
        for remark in tree.remarks:
            log.warning("%s: %s", self.name, remark)
        if judging is None:
            test = self.test or max(len(learning) // TEST_SHARE, len(names))
            sizes = {"test": test, **self._sizes(learning, test)}
            parts = cut_by_class(learning, sizes, names, self.name)
        else:
            parts = cut_by_class(learning, self._sizes(learning), names, self.name)
            parts |= cut_by_class(judging, {"test": self.test}, names, self.name)
        asked = self.asked_channels(), self.asked_pixels()
        return read_splits(parts, names, self.size, root, self.name, self.keep, *asked)

    def given(self, root: Path) -> Given:
        """Return every image of the folder, whatever part of it it lies in; nothing is cut off."""
        inside = self._inside(root)
        try:
            tree = self._tree(root)
            parts = list(tree.parts.values())
            names = self.choose(natural_order(set().union(*parts))) if parts else ()
            if len(names) < 2:
                names = ()
                files = flat_images(tree.top, inside)
            else:
                files = ImageFiles.joined([_files_of(part, names, inside) for part in parts])
        except OSError as error:
            raise RequestError(f"{self.name}: cannot read {error.filename} ({error.strerror})") from None
        images = files.read(self.size, root, self.name, self.keep, self.asked_channels(), self.asked_pixels())
        return Given(images.pixels, images.labels if names else None, tuple(names))

    def _inside(self, root: Path) -> tuple[Path, Path]:
        """Return the folder and the data root, out of which no link may lead."""
        where = root / Path(self.path).expanduser()
        try:
            return where.resolve(), root.resolve()
        except RuntimeError:  # until Python 3.13
            raise RequestError(f"{self.name}: the link {where} leads in a circle") from None

    def _tree(self, root: Path) -> Tree:
        where, _ = inside = self._inside(root)
        if not where.is_dir():
            raise RequestError(
                f"{self.name}: there is no folder {where}; point --data-root or GIFTHORSE_DATA at the folder that "
                f"holds '{self.path}', {self.advice}"
            )
        return read_tree(where, inside, self.asked_classes())

    def _sizes(self, learning: ImageFiles, test: int = 0) -> dict[str, int | None]:
        """Return how many images are held out and trained on: where nothing is said, each class has some in both."""
        counts = learning.labels.bincount(minlength=learning.classes)
        left = len(learning) - test
        most = left - max(self.train or 0, learning.classes)
        some = max(left // HOLDOUT_SHARE, int((counts > (2 if test else 1)).sum()))
        return {"holdout": self.holdout or max(min(some, most), 1), "train": self.train}

    def _files(self, tree: Tree, inside: tuple[Path, ...]) -> tuple[Sequence[str], ImageFiles, ImageFiles | None]:
        """Return the class names, the files to learn from, and those to judge by where the tree has a part for it."""
        parts = dict(tree.parts)
        first, *others = parts
        learning = parts[first]
        for part in others if self.disjoint_parts else ():
            if parts[part].keys().isdisjoint(learning):
                learning = {**learning, **parts.pop(part)}
        names = self.choose(natural_order(learning))
        if len(names) < 2:
            raise RequestError(f"{self.name}: {tree.top} has 1 class ({quoted(names)}); two or more are needed")
        judge = next((part for part in others if part in parts), None)
        if judge is None:
            return names, _files_of(learning, names, inside), None
        missing = set(names) - parts[judge].keys()
        # Who names some of the classes leaves out the others.
        unknown = parts[judge].keys() - learning.keys() if len(names) == len(learning) else set()
        if missing or unknown:
            differ = [f"only {part}/ has {quoted(odd)}" for part, odd in ((first, missing), (judge, unknown)) if odd]
            raise RequestError(f"{self.name}: {first}/ and {judge}/ in {tree.top} differ: {', '.join(differ)}")
        return names, _files_of(learning, names, inside), _files_of(parts[judge], names, inside)


Side = Annotated[int, Field(ge=8, le=1024)]


def _size(value: Any, handler: ValidatorFunctionWrapHandler) -> Size:
    try:
        # From JSON a pair comes as a list.
        size: Size = handler(tuple(value) if isinstance(value, list) else value)
    except ValidationError:
        raise PydanticCustomError(
            "size", "should be a side of 8 to 1024 pixels, or such a pair [height,width]"
        ) from None
    # The same images never have two keys.
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


class Folder(FolderDataset):
    """Any folder with one subfolder of images per class, read in colour or grey and resized to one size.

    The shorter side is resized and the middle is kept. ``train/`` and ``test/`` or ``val/`` are used where they exist.
    """

    name = "folder"
    title = "A folder of images"
    variants = ("folder[classes=3]", "folder[classes=[cat,dog]]", "folder[size=[20,60],channels=1]")

    size: Annotated[Side | tuple[Side, Side], WrapValidator(_size)] = Field(
        64, description="side length to which the images are resized, or [height,width], in pixels"
    )
    channels: Literal[1, 3] = Field(3, description="1: the images are read in grey; 3: in colour")
    classes: Annotated[int, Field(ge=2)] | tuple[str, ...] | None = Field(
        None, description='how many classes, the first in natural order, or which, as ["cat","dog"]; null: all'
    )

    max_pixels: int = Field(
        MAX_PIXELS, ge=1, description="images with more pixels are refused, but for JPEGs, which are decoded smaller"
    )

    def asked_channels(self) -> int:
        """Return the field."""
        return self.channels

    def asked_pixels(self) -> int:
        """Return the field."""
        return self.max_pixels

    def asked_classes(self) -> Collection[str]:
        """Return the classes where they are named."""
        return self.classes if isinstance(self.classes, tuple) else ()

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


def _files_of(classes: Classes, names: Sequence[str], inside: tuple[Path, ...]) -> ImageFiles:
    """Return the files of the classes that are there; :class:`RequestError` names folders without images."""
    paths: list[Path] = []
    labels: list[int] = []
    empty = []
    for label, name in enumerate(names):
        place = classes.get(name, ())
        found = list(image_paths(place, inside)) if isinstance(place, Path) else place
        empty += [place] if isinstance(place, Path) and not found else []
        paths += found
        labels += [label] * len(found)
    if empty:
        kinds = ", ".join(IMAGE_EXTENSIONS)
        raise RequestError(f"no images ({kinds}) in {empty[0].parent} of {quoted(folder.name for folder in empty)}")
    return ImageFiles(tuple(paths), torch.tensor(labels), len(names))


def flat_images(folder: Path, inside: tuple[Path, ...]) -> ImageFiles:
    """Return all images in a folder and its subfolders, of one class; :class:`RequestError` where there are none.

    Links must stay inside one of ``inside``.
    """
    return _files_of({"": folder}, [""], inside)
