"""What a folder of images holds: classes, or parts such as ``train/`` and ``test/`` with classes in them."""

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gifthorse.core.contents import IMAGE_EXTENSIONS
from gifthorse.core.errors import RequestError
from gifthorse.datasets import class_lists
from gifthorse.datasets.names import FILLERS, ROLES, TRAINING, lies_beside, parts_among, roles_in, words

Classes = Mapping[str, Path | tuple[Path, ...]]
"""Class folders, or the image files that a list names, by class."""

_SYSTEM = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "__pycache__"})
"""Folders that systems leave behind."""
_DEEPEST = 16


@dataclass(frozen=True)
class Tree:
    """What was found in a folder, or in the one inside that it stands for, ``top``.

    ``parts`` has the classes of every part whose classes are known, by the name of its folder: the one to train on
    first, the others in the order in which they are to judge. A folder without parts has a single one without a name;
    where there is none, ``problem`` says why. ``lists`` are the files that tell the classes of images, ``remarks`` are
    sentences about what is not used as it may seem. A list in one of the folders ``listless`` would tell more.
    """

    top: Path
    parts: Mapping[str, Classes]
    lists: tuple[Path, ...] = ()
    listless: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()
    problem: str = ""


def read_tree(where: Path, inside: tuple[Path, ...], wanted: Collection[str] = ()) -> Tree:
    """Tell what a folder holds; links must stay inside one of ``inside``.

    A folder that holds nothing but another one stands for that. Parts are known by their names, in any spelling
    (``Training``, ``valid``, ``test_set``), and by having class folders, or a list that tells the classes of their
    images (:mod:`gifthorse.datasets.class_lists`). A class may be called ``train`` as well: where that holds images
    alone and lies beside other folders of images, or where all ``wanted`` classes are folders beside it.
    :class:`RequestError` where a folder may be read either way, or where a list does not fit.
    """
    levels = [where]
    found = _look(where, inside)
    while not found.images and len(found.bearing) == 1 and len(levels) < _DEEPEST:
        (inner,) = found.bearing.values()
        deeper = _look(inner, inside)
        if not deeper.bearing:
            break
        levels.append(inner)
        found = deeper
    parts = parts_among(found.bearing)
    if parts and not (wanted and found.folders.keys() >= set(wanted)):
        tree = _Parted(levels, found, parts, inside).read()
        if tree is not None:
            return tree
    return _plain(levels, found, inside)


def image_paths(folder: Path, inside: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the image files in a folder and its subfolders, in order; links must stay inside one of ``inside``."""
    # A loop, not a recursion: folders may lie in each other deeper than Python counts.
    waiting = [iter(_entries(folder, inside))]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
        # A link to a folder may lead in a circle, and opening a pipe waits for ever: neither is followed.
        elif entry.is_dir(follow_symlinks=False):
            waiting.append(iter(_entries(Path(entry.path), inside)))
        elif _is_image(entry):
            yield Path(entry.path)


@dataclass(frozen=True)
class _Contents:
    """What lies in a folder: whether images do, its folders, and those of them that hold images at any depth."""

    images: bool
    folders: dict[str, Path]
    bearing: dict[str, Path]

    @property
    def classes(self) -> dict[str, Path]:
        """The folders of classes; one without images is to be told about, unless it is none by its name."""
        return {name: path for name, path in self.folders.items() if name in self.bearing or not lies_beside(name)}


def _plain(levels: Sequence[Path], found: _Contents, inside: tuple[Path, ...]) -> Tree:
    """Return what a folder without parts holds: classes, or images whose classes a list tells."""
    top = levels[-1]
    if len(found.bearing) < 2:
        lists = [(path, ()) for path in _lists((*levels, *found.bearing.values()), inside)]
        listed = class_lists.classes_by_list(top, list(image_paths(top, inside)), lists, alone=True) if lists else None
        if listed is not None:
            return Tree(top, {"": listed[0]}, (listed[1],))
    if found.bearing or (found.folders and not found.images):
        return Tree(top, {"": found.classes})
    problem = (
        f"{top} has no class folders; it needs one folder of images per class, or train/ and val/ with such folders"
    )
    return Tree(top, {}, problem=problem)


@dataclass(frozen=True)
class _Part:
    """A part of a tree, the folders down to its classes or images, and its class folders, if it has some."""

    name: str
    role: str
    way: tuple[Path, ...]
    classes: dict[str, Path]
    images: bool
    """Whether images lie beside the class folders."""

    def same(self, other: "_Part") -> bool:
        """Tell whether two names differ in case alone: one of both folders is a copy that an archive brought along."""
        return self.name.casefold() == other.name.casefold()


@dataclass(frozen=True)
class _Known:
    """A part whose classes are known, and the list that tells them, if it is one."""

    part: _Part
    classes: Classes
    source: Path | None


class _Parted:
    """A folder some of whose folders are called like parts."""

    def __init__(
        self, levels: Sequence[Path], found: _Contents, roles: Mapping[str, str], inside: tuple[Path, ...]
    ) -> None:
        self._levels, self._top, self._roles, self._inside = levels, levels[-1], roles, inside
        self._folders = found.bearing
        self._others = [name for name in found.bearing if name not in roles and not lies_beside(name)]

    def read(self) -> Tree | None:
        """Return the parts; ``None`` where the folders are classes, whatever they are called."""
        parts = [self._part(name) for name in self._roles]
        learning = [part for part in parts if part.role == TRAINING]
        judging = [part for part in parts if part.role != TRAINING]
        decide = f"path can name one of them, and classes=[{','.join(self._roles)}] says that they are classes"
        if not learning:
            if self._others or len(parts) < 2:
                return None
            raise RequestError(
                f"{self._top} has {_told(self._roles)} and no folder to train on, such as train/; {decide}"
            )
        known = [found for part in learning if (found := self._known(part, parts))]
        if self._others and (not known or (known[0].part.images and known[0].source is None)):
            return None
        if not known:
            problem = f"{_told(self._roles)} in {self._top} have neither class folders nor a list of classes; {decide}"
            return Tree(self._top, {}, problem=problem)
        first = known[0].part
        if self._others and not judging:
            raise RequestError(
                f"{self._top} has class folders in {first.name}/ and images in {_told(self._others)}: set path to "
                f"{first.name}/ for the former, or name the folders that are classes, classes=[…], for the latter"
            )
        if not all(part.same(first) for part in learning):
            raise RequestError(
                f"{self._top} has several folders to train on, {_told(p.name for p in learning)}; {decide}"
            )
        used = known[:1]
        for part in judging:
            if not any(part.same(each.part) for each in used):
                found = self._known(self._part(part.name, known[0].classes), parts, known[0].classes)
                used += [] if found is None else [found]
        classes = {each.part.name: each.classes for each in used}
        lists = tuple(each.source for each in used if each.source is not None)
        unknown = [folder for part in parts if part.name not in classes for folder in part.way]
        listless = (*self._levels, *unknown) if unknown else ()
        return Tree(self._top, classes, lists, listless, tuple(self._remarks(parts, *used)))

    def _remarks(self, parts: Sequence[_Part], first: _Known, *judges: _Known) -> Iterator[str]:
        """Yield what is not used: unknown folders, second ones of a kind, and images without classes."""
        judge = judges[0].part if judges else None
        left = [*self._others, *(part.name for part in parts if part.role == TRAINING and part.name != first.part.name)]
        if judge is not None:
            left += [part.name for part in parts if part.role == judge.role and part.name != judge.name]
        if left:
            yield f"{_told(left)} in {self._top} left out"
        known = {each.part.name for each in (first, *judges)}
        unknown = [part.name for part in parts if part.name not in known and part.name not in left]
        if unknown:
            whose = f"images of {first.part.name}/ are set aside to judge" if judge is None else f"{judge.name}/ judges"
            yield f"no classes are known in {_told(unknown)} of {self._top}: {whose}"

    def _part(self, name: str, known: Collection[str] = ()) -> _Part:
        """Look into a part, through folders that hold a single one (``seg_train/seg_train``, ``val/images``).

        ``known`` are the classes, where they are known already.
        """
        way = [self._folders[name]]
        found = _look(way[0], self._inside)
        while not found.images and len(found.bearing) == 1 and len(way) < _DEEPEST:
            (inner,) = found.bearing.values()
            deeper = _look(inner, self._inside)
            said = set(words(inner.name)) or {inner.name}
            says_nothing = said <= FILLERS | ROLES.keys() | set(words(name))
            if inner.name in known or not (known or says_nothing or deeper.bearing):
                break  # a single class
            way.append(inner)
            found = deeper
        apart = (
            len(found.bearing) > 1 or (found.bearing and not found.images) or not found.bearing.keys().isdisjoint(known)
        )
        return _Part(name, self._roles[name], tuple(way), found.classes if apart else {}, found.images)

    def _known(self, part: _Part, parts: Sequence[_Part], known: Collection[str] = ()) -> _Known | None:
        """Return the classes of a part: its folders, or what a list tells."""
        if part.classes:
            return _Known(part, part.classes, None)
        paths = [(path, roles_in(path.stem)) for path in _lists((*self._levels, *part.way), self._inside)]
        paths = [(path, roles) for path, roles in paths if not roles or part.role in roles]
        if not paths:
            return None
        elsewhere = self._bare_names(other for other in parts if not other.same(part))
        lists = [(path, () if roles else elsewhere) for path, roles in paths]
        listed = class_lists.classes_by_list(part.way[0], list(image_paths(part.way[0], self._inside)), lists, known)
        return None if listed is None else _Known(part, *listed)

    def _bare_names(self, parts: Iterable[_Part]) -> set[str]:
        """Return what a list may call the images of parts without class folders."""
        paths = [path for part in parts if not part.classes for path in image_paths(part.way[0], self._inside)]
        return {path.name for path in paths} | {path.stem for path in paths}


def _told(folders: Iterable[str]) -> str:
    return ", ".join(f"{name}/" for name in folders)


def _lists(folders: Iterable[Path], inside: tuple[Path, ...]) -> list[Path]:
    """Return the files in some folders that may tell classes; an example of a submission tells none."""
    return [
        Path(entry.path)
        for folder in folders
        for entry in _entries(folder, inside)
        if entry.name.lower().endswith(class_lists.EXTENSIONS)
        and entry.is_file()
        and {"sample", "submission"}.isdisjoint(words(entry.name))
    ]


def _look(folder: Path, inside: tuple[Path, ...]) -> _Contents:
    entries = _entries(folder, inside)
    folders = {entry.name: Path(entry.path) for entry in entries if entry.is_dir()}
    bearing = {name: path for name, path in folders.items() if _bears_images(path)}
    return _Contents(any(map(_is_image, entries)), folders, bearing)


def _bears_images(folder: Path) -> bool:
    """Tell whether there are images in a folder or its subfolders, as soon as one is found."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    waiting += [Path(entry.path)] if _counts(entry) else []
                elif not entry.name.startswith(".") and _is_image(entry):
                    return True
    return False


def _is_image(entry: "os.DirEntry[str]") -> bool:
    return entry.name.lower().endswith(IMAGE_EXTENSIONS) and (_leads_nowhere(entry) or entry.is_file())


def _leads_nowhere(entry: "os.DirEntry[str]") -> bool:
    """Tell whether an entry is a link to itself, or to links that lead in a circle."""
    try:
        entry.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _counts(entry: "os.DirEntry[str]") -> bool:
    return not entry.name.startswith(".") and entry.name not in _SYSTEM


def _entries(folder: Path, inside: tuple[Path, ...]) -> list["os.DirEntry[str]"]:
    """Return what is in a folder, by name; a link that leads out is refused: it would bring in private files."""
    with os.scandir(folder) as found:
        entries = sorted(filter(_counts, found), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_symlink():
            if _leads_nowhere(entry):
                raise RequestError(f"the link {entry.path} leads in a circle")
            target = Path(entry.path).resolve()
            if not target.exists() or not any(target.is_relative_to(allowed) for allowed in inside):
                raise RequestError(
                    f"the link {entry.path} leads to {target}, which is missing or outside of the data root"
                )
    return entries
