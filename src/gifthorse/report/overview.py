"""Every attack against every defense at a glance: one number each, by the metric that stands for the family."""

from dataclasses import dataclass

from gifthorse.core.family import Family
from gifthorse.core.metric import METRICS, Metric
from gifthorse.report.tables import DID_NOT_TAKE, NOT_RUN, Group, Note, ResultTable, Row, Value

_VERDICT = "defense.flagged"


@dataclass(frozen=True)
class Mark:
    """How cells without a number ended: a status, how many they are, and the footnotes that say why, counted from 1."""

    status: str
    cells: int
    footnotes: tuple[int, ...]


@dataclass(frozen=True)
class Square:
    """One attack against one defense; ``verdict`` is whether a detector flagged it, or in how many seeds.

    ``credit`` in [0,1] says how well the defense does, where it gets any.
    """

    row: Row
    value: Value | None
    verdict: Value | None
    credit: float | None
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Line:
    """One attack against all defenses, family by family."""

    attack: Row
    squares: tuple[tuple[Square, ...], ...]


@dataclass(frozen=True)
class Columns:
    """The defenses of one family, and the metric that their columns show."""

    family: Family
    metric: Metric
    defenses: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """Attacks × defenses; the ``footnotes`` are a status and a reason each."""

    columns: tuple[Columns, ...]
    lines: tuple[Line, ...]
    footnotes: tuple[tuple[str, str], ...]

    @property
    def statuses(self) -> set[str]:
        """Return what has to be explained."""
        marked = {mark.status for square in self._squares for mark in square.marks}
        return marked | {DID_NOT_TAKE for line in self.lines if line.attack.doubt}

    @property
    def tinted(self) -> bool:
        """Tell whether some defense gets credit, or too little of it."""
        return any(square.credit is not None for square in self._squares)

    @property
    def dashes(self) -> bool:
        """Tell whether some square has numbers, but not this one."""
        return any(square.row.values and square.value is None for square in self._squares)

    @property
    def _squares(self) -> list[Square]:
        return [square for line in self.lines for squares in line.squares for square in squares]


def overview_of(group: Group) -> Overview | None:
    """Return the overview of a group; ``None`` where nothing met a defense."""
    tables, columns = [], []
    for table in group.tables:
        if isinstance(table.about, Family):
            defenses = tuple(row.label for row in table.blocks[0].rows)
            tables.append(table)
            columns.append(Columns(table.about, METRICS.find(table.about.headline), defenses))
    if not tables:
        return None
    footnotes: dict[tuple[str, str], int] = {}
    lines = tuple(
        Line(
            attack,
            tuple(
                tuple(
                    _square(row, table, each.metric, _plants_nothing(attack, group), footnotes)
                    for row in table.blocks[number].rows
                )
                for table, each in zip(tables, columns, strict=True)
            ),
        )
        for number, attack in enumerate(group.attacks)
    )
    return Overview(tuple(columns), lines, tuple(footnotes))


def _plants_nothing(attack: Row, group: Group) -> bool:
    """Tell whether an attack has numbers, and among them none that says whether a backdoor took."""
    named = dict(zip((column.name for column in group.attack_columns), attack.values, strict=False))
    return bool(named) and named.get("attack.valid") is None


def _square(
    row: Row, table: ResultTable, metric: Metric, benign: bool, footnotes: dict[tuple[str, str], int]
) -> Square:
    values = dict(zip((column.name for column in table.columns), row.values, strict=False))
    value = values.get(metric.name)
    by_status: dict[str, list[Note]] = {}
    for note in row.notes:
        by_status.setdefault(note.status, []).append(note)
    marks = []
    for status, notes in by_status.items():
        reasons = dict.fromkeys((status, note.reason) for note in notes if note.status != NOT_RUN)
        marks.append(
            Mark(status, len(notes), tuple(footnotes.setdefault(each, len(footnotes) + 1) for each in reasons))
        )
    verdict = values.get(_VERDICT)
    credit = None if benign or row.doubt else _credit(metric, value, verdict)
    return Square(row, value, verdict, credit, tuple(marks))


def _credit(metric: Metric, value: Value | None, verdict: Value | None) -> float | None:
    """Return the share that the defense gained of what there was to gain, where the metric says what that is.

    An index says nothing of that; of a detector it is the share of its models that it flagged.
    """
    if value is None or (metric.unit.low, metric.unit.high) != (0, 1) or not metric.better:
        return None if verdict is None else float(verdict.raw)
    share = min(max(float(value.raw), 0.0), 1.0)
    return 1 - share if metric.better == "lower" else share
