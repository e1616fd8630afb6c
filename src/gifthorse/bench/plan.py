"""The plan: what is left to compute of some cells, every stored node once, whoever asks for it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gifthorse.bench.cell import Cell
from gifthorse.bench.runner import Runner, Stage
from gifthorse.core.contents import looking_once
from gifthorse.core.errors import RequestError
from gifthorse.core.record import Record
from gifthorse.core.task import Task


@dataclass(frozen=True)
class Node:
    """A stage of a cell that the store keeps under a key; ``needs`` are the nodes that come before it, by name."""

    stage: Stage
    key: str
    cell: Cell
    needs: tuple[str, ...] = ()
    fresh: bool = False

    @property
    def name(self) -> str:
        """Return what tells it from every other node."""
        return f"{self.stage}-{self.key}"


@dataclass(frozen=True)
class Plan:
    """Cells with the records that the store has of them, and the nodes that are missing, each after what it needs."""

    cells: tuple[Cell, ...]
    known: dict[str, Record]
    nodes: tuple[Node, ...]


def plan(runner: Runner, cells: Sequence[Cell], *, fresh: bool = False) -> Plan:
    """Return what is to be computed of cells: nothing of those whose records are done, unless ``fresh``.

    :class:`RequestError`, before anything is trained, with every reason why a cell cannot be carried out.
    """
    with looking_once():
        return _plan(runner, cells, fresh)


def _plan(runner: Runner, cells: Sequence[Cell], fresh: bool) -> Plan:
    cells = tuple({cell.identity(): cell for cell in map(runner.reading, cells)}.values())
    # What a newer program wrote is refused here, and not once it would be overwritten.
    found = {cell.identity(): runner.store.load_record(cell.identity()) for cell in cells}
    kept = {} if fresh else found
    known = {identity: record for identity, record in kept.items() if record is not None and record.status == "done"}
    nodes: dict[str, Node] = {}
    problems: dict[str, None] = {}
    for cell in cells:
        if cell.identity() in known:
            continue
        try:
            task = runner.check(cell)
        except RequestError as error:
            problems[str(error)] = None
        else:
            nodes |= {node.name: node for node in _nodes(runner, cell, task, nodes, fresh)}
    if problems:
        raise RequestError("\n".join(problems))
    return Plan(cells, known, tuple(nodes.values()))


def _nodes(runner: Runner, cell: Cell, task: Task, planned: Collection[str], fresh: bool) -> list[Node]:
    """Return the missing nodes of a cell, its record last; of those planned already only the names count."""
    nodes: dict[str, Node] = {}

    def needed(stage: Stage, key: str, *before: str) -> str:
        node = Node(stage, key, cell, tuple(name for name in before if name in planned or name in nodes), fresh)
        if node.name not in planned and (fresh or stage == "record" or not runner.store.has_artifact(stage, key)):
            nodes[node.name] = node
        return node.name

    benign = needed("benign", cell.benign_key())
    twin = cell.attack.twin(task)
    models = [benign, *(() if twin is None else (needed("twin", cell.twin_key(twin), benign),))]
    preparation = cell.attack.preparation(task)
    if preparation is not None:
        models.append(needed("attack_prepared", cell.attack_prepared_key(preparation), benign))
    before = [needed("trojan", cell.trojan_key(), *models)]
    prepared = cell.prepared_key()
    if prepared is not None:
        before.append(needed("prepared", prepared))
    needed("record", cell.identity(), *models, *before)
    return list(nodes.values())
