"""What has to be equal for records to be averaged, and how it is named where it differs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gifthorse.core.columns import CONFIGURATIONS, VERSION, split, value_in
from gifthorse.core.record import Downstream, Record
from gifthorse.report.naming import key, labels

PARTS = ("dataset", "model", "training", "profile", "version", "attack", "defense", "downstream", "stamp", "analysis")
"""What a result depends on, seeds aside; a data set is its images as well as its fields."""

FOLLOWING = {"defense": "no defense", "downstream": "as delivered", "stamp": "as planted", "analysis": "no analysis"}
"""The parts that follow a trojan, and what it is called where they do not."""


@dataclass(frozen=True)
class Axis:
    """A column of the records by which a table has its rows or its columns: a part of the settings, or a field."""

    column: str

    @property
    def part(self) -> str:
        """Return the part of the settings that it is, or is a field of; any other column is a part of its own."""
        return "version" if self.column in ("version", VERSION) else split(self.column)[0]

    @property
    def whole(self) -> bool:
        """Tell whether it is a part of the settings with all its fields."""
        return self.part in PARTS and self.column in (self.part, f"{self.part}.name", VERSION)

    def value(self, record: Record) -> Any:
        """Return what a record has there."""
        return value_in(record, self.column)


class Settings:
    """The settings of some records, part by part: equal keys where they are equal, and labels that tell them apart.

    Fields that are axes of the table are left out of the parts.
    """

    def __init__(self, records: Sequence[Record], axes: Iterable[Axis] = ()):
        # Many records have few settings: what is the same object is looked at once.
        records = list({identity(record): record for record in records}.values())
        fields = [axis for axis in axes if not axis.whole]
        self._left_out = {part: [split(axis.column)[1:] for axis in fields if axis.part == part] for part in PARTS}
        tuned = [(record.downstream, record.dataset) for record in records if record.downstream is not None]
        others = [(each.dataset, each.data_digest) for each, dataset in tuned if each.dataset != dataset]
        self._images, self._others_images = (
            _digests((each.dataset, each.data_digest) for each in records),
            _digests(others),
        )
        self._others = labels(dataset for dataset, _ in others)
        # Known by identity, which means something while the records live.
        self._records, self._keys = records, dict[tuple[str, int, int], str]()
        self._found: dict[str, dict[str, Mapping[str, Any]]] = {part: {} for part in CONFIGURATIONS}
        for record in records:
            for part in CONFIGURATIONS:
                self.key(record, part)
        always = {"downstream": ("tuning", "dataset")}
        self._labels = {part: labels(found.values(), always.get(part, ())) for part, found in self._found.items()}

    def key(self, record: Record, part: str) -> str:
        """Return the same text for records that are equal in a part."""
        found = self._key(record, part)
        return f"{found}\n{record.data_digest}" if part == "dataset" else found

    def label(self, record: Record, part: str) -> str:
        """Return the shortest name of a part of a record that no other record has for something else."""
        found = self._key(record, part)
        if part not in CONFIGURATIONS or not found:
            return found or FOLLOWING[part]
        told_apart = _told_apart(self._images, record.dataset, record.data_digest) if part == "dataset" else ""
        return self._labels[part][found] + told_apart

    def _key(self, record: Record, part: str) -> str:
        if part == "profile":
            return record.profile
        if part == "version":
            return record.environment.gifthorse
        source = getattr(record, part)
        if source is None:
            return ""
        place = part, id(source), id(record.dataset)
        if place not in self._keys:
            configuration = source if part != "downstream" else self._user(source, record.dataset)
            for path in self._left_out[part]:
                configuration = _without(configuration, path)
            self._keys[place] = key(configuration)
            self._found[part].setdefault(self._keys[place], configuration)
        return self._keys[place]

    def _user(self, user: Downstream, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a downstream user's head, and their images where they are not those of the cell."""
        if user.dataset == dataset:
            return user.head
        images = self._others[key(user.dataset)] + _told_apart(self._others_images, user.dataset, user.data_digest)
        return {**user.head, "dataset": images}


def identity(record: Record) -> tuple[Any, ...]:
    """Return what is equal for records whose settings are the same objects; it means something while they live."""
    objects = (record.dataset, record.model, record.training, record.attack)
    following = (record.defense, record.downstream, record.stamp, record.analysis)
    return (*map(id, (*objects, *following)), record.data_digest, record.profile, record.environment.gifthorse)


def _digests(datasets: Iterable[tuple[Mapping[str, Any], str | None]]) -> dict[str, set[str | None]]:
    """Return the digests of the images that occur under each data set's name and fields."""
    found: dict[str, set[str | None]] = {}
    for dataset, digest in datasets:
        found.setdefault(key(dataset), set()).add(digest)
    return found


def _told_apart(digests: Mapping[str, set[str | None]], dataset: Mapping[str, Any], digest: str | None) -> str:
    """Return what tells images from others by the same name; nothing where there are none."""
    if len(digests[key(dataset)]) == 1:
        return ""
    return f" (images {digest[:8] if digest else 'of an older record'})"


def _without(fields: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """Return a configuration without the field at a path."""
    first, *rest = path
    if first not in fields or (rest and not isinstance(fields[first], Mapping)):
        return fields
    if rest:
        return {**fields, first: _without(fields[first], rest)}
    return {name: value for name, value in fields.items() if name != first}
