"""Lists that tell the classes of images, as they lie beside them: CSV files, or lines of image and class."""

import csv
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from gifthorse.core.errors import RequestError
from gifthorse.datasets.names import natural_order, quoted

EXTENSIONS = (".csv", ".tsv", ".txt")
_LARGEST = 1 << 26
"""Bytes; what is larger is no list of classes."""
_FILES = (
    *("path", "filepath", "imagepath", "imgpath", "filename", "file", "imagename", "imgname", "image", "img"),
    *("imageid", "imgid", "id", "name"),
)
_CLASSES = (
    *("class", "classname", "label", "labels", "labelname", "category", "categoryname", "target"),
    *("classid", "labelid", "categoryid", "wnid", "species", "breed", "y"),
)
"""Headings without case and punctuation, those to prefer first."""


def classes_by_list(
    part: Path,
    images: Sequence[Path],
    lists: Iterable[tuple[Path, Collection[str]]],
    known: Collection[str] = (),
    *,
    alone: bool = False,
) -> tuple[dict[str, tuple[Path, ...]], Path] | None:
    """Return the images in the folder ``part`` by class, and the list that tells; ``None`` where none does.

    Beside each list are the names of images elsewhere that it may mean as well. The classes must be among ``known``, if
    any are. ``alone`` says that there is no other part: then folders that a list names before an image do not matter.
    :class:`RequestError` where a list leaves images out, names other classes or contradicts another.
    """
    index = _Index(part, images, alone)
    told = {path: labels for path, elsewhere in lists if (labels := _labels(path, index, elsewhere, known))}
    whole = {path: labels for path, labels in told.items() if len(labels) == len(images)}
    for path, labels in told.items() if not whole else ():
        left = [image for image in images if image not in labels]
        raise RequestError(
            f"{path} has no class for {len(left)} of {len(images)} images in {part}, such as {left[0].name}"
        )
    if not whole:
        return None
    fitting = {path: labels for path, labels in whole.items() if not known or set(known).issuperset(labels.values())}
    (path, labels), *others = (fitting or whole).items()
    if not fitting:
        unknown = set(labels.values()) - set(known)
        raise RequestError(f"{path} names classes that are no class folders: {quoted(unknown)}")
    for other, again in others:
        if odd := [image.name for image in images if again[image] != labels[image]]:
            raise RequestError(f"{path} and {other} give {odd[0]} different classes; leave one of these lists")
    classes: dict[str, list[Path]] = {name: [] for name in natural_order(set(labels.values()))}
    for image in images:
        classes[labels[image]].append(image)
    return {name: tuple(members) for name, members in classes.items()}, path


class _Index:
    """The images of a part by the names that a list may give them."""

    def __init__(self, part: Path, images: Sequence[Path], alone: bool):
        self._part, self._alone = part.name.casefold(), alone
        self._inner = {image.relative_to(part).as_posix(): image for image in images}
        self._bare: dict[str, Path | None] = {}
        for image in images:
            for name in {image.name, image.stem}:
                # What two images are called tells neither.
                self._bare[name] = None if name in self._bare else image

    def find(self, text: str, elsewhere: Collection[str] = ()) -> Path | None:
        """Return the image of this part that a list means, if any; :class:`RequestError` where it may be another."""
        pieces = [piece for piece in text.strip().replace("\\", "/").split("/") if piece not in ("", ".")]
        places = [place for place, piece in enumerate(pieces[:-1]) if piece.casefold() == self._part]
        rest = pieces[places[-1] + 1 :] if places else pieces
        if not rest:
            return None
        found = self._inner.get("/".join(rest))
        if found is None and (len(rest) == 1 or self._alone):
            found = self._bare.get(rest[-1])
        if found is not None and len(pieces) == 1 and pieces[0] in elsewhere:
            raise RequestError(f"there are several images that '{pieces[0]}' may mean; name their folders in the list")
        return found


def _labels(path: Path, index: _Index, elsewhere: Collection[str], known: Collection[str]) -> dict[Path, str]:
    """Return the classes of images that a list tells; none where it is another kind of file."""
    rows = _rows(path)
    if not rows:
        return {}
    heading = [re.sub(r"[\W_]+", "", cell).casefold() for cell in rows[0]]
    files, classes = ([heading.index(name) for name in names if name in heading] for names in (_FILES, _CLASSES))
    if files and classes:
        rows = rows[1:]
    elif index.find(rows[0][0]) is not None:
        files, classes = [0], list(range(1, len(rows[0])))
    try:
        for column in files if classes else ():
            matched = [(index.find(row[column], elsewhere), row) for row in rows if column < len(row)]
            named = [(image, row) for image, row in matched if image is not None]
            if named:
                told = [_column(named, each, known) for each in classes if each != column]
                return next(
                    (labels for labels in told if set(known).issuperset(labels.values())), told[0] if told else {}
                )
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    return {}


def _column(named: Iterable[tuple[Path, Sequence[str]]], column: int, known: Collection[str]) -> dict[Path, str]:
    """Return the classes in a column; numbers stand for the class folders of that number, however they are written."""
    numbers = {int(name): name for name in known if name.isdecimal()}
    labels: dict[Path, str] = {}
    for image, row in named:
        label = row[column].strip() if column < len(row) else ""
        if label not in known and label.isdecimal():
            label = numbers.get(int(label), label)
        if label and labels.setdefault(image, label) != label:
            raise RequestError(f"{image.name} has two classes, '{labels[image]}' and '{label}'")
    return labels


def _rows(path: Path) -> list[list[str]]:
    """Return the cells of a table with two columns or more, line by line; none where the file is no such table."""
    if path.stat().st_size > _LARGEST:
        return []
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    first = text.partition("\n")[0]
    separator = max("\t;,", key=first.count)
    try:
        lines = text.splitlines()
        split = csv.reader(lines, delimiter=separator) if separator in first else (line.split() for line in lines)
        rows = [row for row in split if row]
    except csv.Error:
        return []
    return rows if rows and len(rows[0]) > 1 else []
