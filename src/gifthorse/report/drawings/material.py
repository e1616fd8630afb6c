"""What figure files are made of, and what they are called."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from gifthorse.core.record import Interval, Population, Record
from gifthorse.report.evidence import Arrays
from gifthorse.report.naming import key, labels
from gifthorse.report.tables import analysis_labels, group, stamp_labels

_LONGEST_NAME = 120
_FURTHER = ("training", "profile", "version")


@dataclass(frozen=True)
class Material:
    """All that is in a store, so that names do not depend on what of it is drawn, and the ids of what is.

    ``evidence`` returns the arrays behind a record by its id, none where it has none. ``metrics`` are those that
    matrices and sweeps show; where there are none, the kinds choose.
    """

    records: Sequence[Record]
    populations: Sequence[Population]
    chosen: Collection[str]
    evidence: Callable[[str], Arrays]
    metrics: tuple[str, ...] = ()

    def parts(self) -> Iterator["Part"]:
        """Yield the groups of records that may stand beside each other and hold some that are chosen."""
        groups = group(self.records)
        for each in groups:
            chosen = tuple(record for record in each.records if record.id in self.chosen)
            if chosen:
                others = [other for other in groups if (other.dataset, other.model) == (each.dataset, each.model)]
                further = [name for name in _FURTHER if len({getattr(other, name) for other in others}) > 1]
                yield Part(
                    records=chosen,
                    place=(each.dataset, each.model, *(getattr(each, name) for name in further)),
                    about=f"{each.dataset} on {each.model}, training {each.training}, profile {each.profile}",
                    attacks=labels(record.attack for record in each.records),
                    defenses=labels(record.defense for record in each.records if record.defense is not None),
                    stamps=stamp_labels(each.records),
                    analyses=analysis_labels(each.records),
                )


@dataclass(frozen=True)
class Part:
    """Records that share all but attack, defense, stamp, analysis and seed, and their labels by :func:`naming.key`.

    ``stamps`` and ``analyses`` have those of stamps and analyses by record.
    ``place`` are the parts of a file's name that tell it from others, ``about`` is what all of its numbers share.
    """

    records: tuple[Record, ...]
    place: tuple[str, ...]
    about: str
    attacks: Mapping[str, str]
    defenses: Mapping[str, str]
    stamps: Mapping[str, str]
    analyses: Mapping[str, str]

    def attack(self, record: Record) -> str:
        """Return the label of a record's attack."""
        return self.attacks[key(record.attack)]

    def defense(self, record: Record) -> str:
        """Return the label of a record's defense, and of how the trigger was shown to it."""
        defense, stamp = self.defenses[key(record.defense)], self.stamps.get(record.id)
        return f"{defense}, {stamp}" if stamp else defense


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn: its file's name without a suffix; ``draw`` returns nothing where nothing is there."""

    name: str
    draw: Callable[[], Figure | None]


@dataclass(frozen=True)
class Kind:
    """A kind of figures: what they show, what has to be in the store for one, and what finds them."""

    shows: str
    needs: str
    find: Callable[[Material], Iterator[Drawing]]


def file_name(kind: str, *parts: str) -> str:
    """Return a name that says what a file shows, in letters that every file system and LaTeX take.

    >>> file_name("roc", "digits", "torchvision/resnet50", "badnets[poison_rate=0.05,target=1]")
    'roc-digits-torchvision_resnet50-badnets_poison_rate_0.05_target_1'
    """
    words = [re.sub(r"[^A-Za-z0-9.]+", "_", part).strip("_.") for part in (kind, *parts)]
    name = "-".join(word for word in words if word)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def cells(material: Material, kind: str, wanted: Callable[[Record], bool]) -> Iterator[tuple[Record, str, str]]:
    """Yield the finished cells with a defense that are wanted, each with its file's name and what it is."""
    for part in material.parts():
        for record in part.records:
            if record.status == "done" and record.defense is not None and wanted(record):
                attack, defense = part.attack(record), part.defense(record)
                name = file_name(kind, *part.place, attack, defense, f"seed{record.seed}")
                yield record, name, f"{defense} on {attack}, {part.about}, seed {record.seed}"


def counted(counts: Iterable[int], what: str) -> str:
    """Return how many of something there are; the word is in the singular.

    >>> counted([3, 3], "seed"), counted([1], "seed"), counted([1, 3], "seed")
    ('3 seeds', '1 seed', '1 to 3 seeds')
    """
    found = sorted(counts)
    low, high = found[0], found[-1]
    return f"{high if low == high else f'{low} to {high}'} {what}{'' if high == 1 else 's'}"


def estimate(value: float, interval: Interval | None) -> str:
    """Return a number in [0,1] with its interval, cut at the ends of that range.

    >>> estimate(0.98, (0.95, 1.01)), estimate(0.5, None)
    ('0.980 [0.950, 1.000]', '0.500')
    """
    if interval is None:
        return f"{value:.3f}"
    low, high = max(interval[0], 0.0), min(interval[1], 1.0)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
