"""Where the weights are in what a file holds: training code keeps them beside its epoch, options and optimizer."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gifthorse.checkpoints.building import own_rank
from gifthorse.checkpoints.listing import listing, shown
from gifthorse.checkpoints.numpy_values import PickledScalar
from gifthorse.checkpoints.plain_values import Unread
from gifthorse.checkpoints.torch_values import PickledTensor
from gifthorse.core.errors import RequestError

log = logging.getLogger("gifthorse")

_USUAL = ("state_dict", "model_state_dict", "model", "net")
# Looked for where none of the usual ones is there; netC is WaNet's classifier, beside its generator netG.
_ALSO = ("model_state", "module", "network", "netC", "weights")
_OPTIMIZER = "param_groups"
_LONGEST_LIST = 100
_MISSING = object()


@dataclass(frozen=True)
class _Place:
    """A dictionary of weights: its path of entries, and other entries on the way that hold weights as well."""

    weights: dict[Any, Any]
    path: tuple[str, ...]
    others: tuple[str, ...]


def find_weights(path: Path, loaded: object, entry: str | None) -> dict[Any, Any]:
    """Return the weights by name that are inside of what the file at ``path`` holds, or inside of its ``entry``.

    Other values may lie beside them. Tensors that a pickle described are not made yet.

    ``entry`` is a name, or several with dots between them (``checkpoint.state_dict``). Without one, entries that are
    usually called so are taken first, then the only one that holds weights. What was chosen and what was left out is
    logged where it is not plain; :class:`RequestError` where there are no weights, or several to choose from.
    """
    at: tuple[str, ...] = ()
    value = loaded
    if entry is not None:
        at, value = (entry,), _entry(loaded, entry)
        if value is _MISSING:
            raise RequestError(f"{path} has no entry '{shown(entry)}'; it has {_contents(loaded)}")
    ranks: dict[int, int] = {}
    if not _rank(value, ranks):
        where = f"{path} holds" if entry is None else f"the entry '{shown(entry)}' of {path} holds"
        raise RequestError(f"{where} no weights, which are tensors by name; it has {_contents(value)}")
    place = _chosen(path, value, at, ranks)
    if place.others and entry is None:
        log.warning(
            "%s: the weights are those of its entry '%s'; there are others, to be chosen with entry=: %s",
            path.name,
            shown(".".join(place.path)),
            listing(place.others),
        )
    elif entry is None and not {*place.path} <= {*_USUAL, "0"}:
        log.warning("%s: the weights are those of its entry '%s'", path.name, shown(".".join(place.path)))
    return place.weights


def _entries(value: object) -> dict[str, Any]:
    """Return what a dictionary, or a short list, holds, by the name that ``entry`` has for it."""
    if isinstance(value, dict):
        return {str(key): each for key, each in value.items() if isinstance(key, str | int)}
    if isinstance(value, list | tuple) and len(value) <= _LONGEST_LIST:
        return {str(place): each for place, each in enumerate(value)}
    return {}


def _entry(value: object, entry: str) -> object:
    entries = _entries(value)
    if entry in entries:
        return entries[entry]
    parts = entry.split(".")
    for count in range(len(parts) - 1, 0, -1):
        first = ".".join(parts[:count])
        if first in entries:
            found = _entry(entries[first], ".".join(parts[count:]))
            if found is not _MISSING:
                return found
    return _MISSING


def _rank(value: object, ranks: dict[int, int]) -> int:
    """Return 2 where a value is, or holds, weights of layers (``conv.weight``), 1 for any tensors by name, 0 for none.

    Every container is looked at once, so that neither a loop nor a shared one costs more than its size.
    """
    if not isinstance(value, dict | list | tuple):
        return 0
    if id(value) not in ranks:
        ranks[id(value)] = 0
        entries = _entries(value)
        if not (isinstance(value, dict) and _OPTIMIZER in entries):
            inner = [_rank(each, ranks) for each in entries.values()]
            ranks[id(value)] = max([own_rank(value), *inner])
    return ranks[id(value)]


def _chosen(path: Path, value: object, at: tuple[str, ...], ranks: dict[int, int]) -> _Place:
    """Descend to the weights that a value holds."""
    seen, others = set(), []
    while True:
        seen.add(id(value))
        entries = _entries(value)
        holders = {
            name: rank for name, each in entries.items() if id(each) not in seen and (rank := _rank(each, ranks))
        }
        name = _of_usual_name(path, at, holders)
        own = own_rank(value)
        if name is None and (own == 2 or not holders or (own and max(holders.values()) < 2)):
            break
        if name is None:
            highest = max(holders.values())
            best = [each for each, rank in holders.items() if rank == highest]
            if len(best) > 1:
                raise _several(path, at, best)
            (name,) = best
        others += [_joined(at, each) for each, rank in holders.items() if each != name and rank == 2]
        at, value = (*at, name), entries[name]
    if not own:
        raise RequestError(f"{path} holds no weights, which are tensors by name; it has {_contents(value)}")
    assert isinstance(value, dict)
    return _Place(value, at, tuple(others))


def _of_usual_name(path: Path, at: tuple[str, ...], holders: dict[str, int]) -> str | None:
    for names in (_USUAL, _ALSO):
        found = [name for name in names if name in holders]
        if len(found) > 1:
            raise _several(path, at, found)
        if found:
            return found[0]
    return None


def _several(path: Path, at: tuple[str, ...], names: list[str]) -> RequestError:
    choices = listing(_joined(at, name) for name in names)
    return RequestError(f"{path} has several entries that may be the weights, name one with entry=: {choices}")


def _joined(at: tuple[str, ...], name: str) -> str:
    """Return a path of entries; of a hostile file's long one, only as much as is shown."""
    return f"{shown('.'.join(at))}.{name}" if at else name


def _contents(value: object) -> str:
    if not isinstance(value, dict):
        return _kind(value)
    return listing(f"{name} ({_kind(each)})" for name, each in value.items()) or "nothing"


def _kind(value: object) -> str:
    if isinstance(value, dict | list | tuple):
        kind = "dictionary" if isinstance(value, dict) else "list"
        return f"a {kind}" if len(value) else f"an empty {kind}"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float | PickledScalar):
        return "a number"
    if isinstance(value, PickledTensor):
        return "a Tensor"
    if type(value) is Unread:
        return "a value of another kind"
    return "nothing" if value is None else f"a {type(value).__name__}"
