"""Whether a defender could get at the truth: a walk through all that can be reached from what it holds."""

from dataclasses import fields, is_dataclass

from torch import Tensor

from gifthorse.core.goal import Goal
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.core.trojan import Backdoor, DeliveredSet, Trojan
from gifthorse.core.views import DataFreeView, Materials, Split


def leaks(
    view: DataFreeView | Materials, trojan: Trojan, task: Task, holds: frozenset[Split] | None = None
) -> list[object]:
    """Return what of the truth can be reached from a view beyond what its type declares."""
    assert trojan.delivered is not None
    declared: frozenset[str] = view.holds if isinstance(view, DataFreeView) else holds or frozenset()
    found = reachable(view)
    leaked: list[object] = [
        item for item in found if isinstance(item, (Task, Trojan, Backdoor, Trigger, Goal, DeliveredSet))
    ]
    truth = [*vars(trojan.delivered).values(), *trojan.model.state_dict().values()]
    truth += [tensor for split in (task.train, task.holdout, task.test) for tensor in (split.pixels, split.labels)]
    own = {tensor.data_ptr() for tensor in truth}
    leaked += [item for item in found if isinstance(item, Tensor) and item.numel() and item.data_ptr() in own]
    splits = {"train": task.train, "holdout": task.holdout, "test": task.test}
    hidden = {pixel.numpy().tobytes() for name in splits.keys() - declared for pixel in splits[name].pixels}
    shown = [item for item in found if isinstance(item, Images)]
    return leaked + [images for images in shown if hidden & {pixel.numpy().tobytes() for pixel in images.pixels}]


def reachable(root: object) -> list[object]:
    """Return every object that can be reached from ``root`` through attributes, containers and closures."""
    seen: dict[int, object] = {}
    stack = [root]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type)):
            continue
        seen[id(item)] = item
        if is_dataclass(item):
            stack += [getattr(item, field.name) for field in fields(item)]
        if isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack += list(item)
        elif callable(item) and getattr(item, "__closure__", None):
            stack += [cell.cell_contents for cell in item.__closure__]  # type: ignore[attr-defined]
        if not isinstance(item, Tensor):
            stack += list(getattr(item, "__dict__", {}).values())
    return list(seen.values())
