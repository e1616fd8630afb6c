"""From what a checkpoint says of its weights to tensors: made one by one, within the bytes that the file has."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gifthorse.checkpoints.limits import Limits
from gifthorse.checkpoints.listing import listing, shown
from gifthorse.checkpoints.numpy_values import PLAIN, PickledArray, PickledScalar
from gifthorse.checkpoints.torch_values import PickledTensor
from gifthorse.core.errors import RequestError

log = logging.getLogger("gifthorse")

_DESCRIBED = Tensor | PickledTensor | PickledArray | PickledScalar


def own_rank(value: object) -> int:
    """Return 2 where a value is weights of layers (``conv.weight``), 1 for any tensors by name, 0 for anything else."""
    named = [name for name in value if _is_weight(name, value[name])] if isinstance(value, dict) else []
    return 0 if not named else 2 if any("." in name for name in named) else 1


def build(path: Path, items: Mapping[Any, Any], most: int, limits: Limits) -> dict[str, Tensor]:
    """Return the tensors of a dictionary of weights, detached; what else lies beside them is left out, and named.

    Together they take no more than ``most`` bytes. :class:`RequestError` or ``ValueError`` where one is not a dense
    tensor of plain numbers, or has more numbers than there are.
    """
    weights = {name: value for name, value in items.items() if _is_weight(name, value)}
    strange = {str(name): value for name, value in items.items() if not _is_weight(name, value)}
    if len(weights) > limits.tensors:
        raise RequestError(f"{path} has {len(weights)} tensors, more than the {limits.tensors} that are allowed")
    layers = own_rank(items) == 2
    found: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}
    storages: dict[int, int] = {}
    total = 0
    for name, value in weights.items():
        if id(value) not in made:
            try:
                tensor = value if isinstance(value, Tensor) else value.tensor()
            except ValueError:
                if isinstance(value, PickledTensor) or not layers or "." in name:
                    raise
                strange[name] = value
                continue
            _check(path, name, tensor)
            storage = tensor.untyped_storage()
            total += storage.nbytes() - storages.get(storage.data_ptr(), 0)
            storages[storage.data_ptr()] = storage.nbytes()
            if total > most:
                raise RequestError(f"{path} is damaged: it claims more numbers than it holds")
            made[id(value)] = tensor.detach()
        found[name] = made[id(value)]
    # A layer may keep something beside its tensors under this name, see torch.nn.Module.get_extra_state.
    lost = [n for n, value in strange.items() if "." in n and not n.endswith("_extra_state") and value is not None]
    if lost:
        raise RequestError(f"{path} has entries among its weights that are no tensors: {listing(lost)}")
    if strange:
        log.warning("%s: beside the weights, what is no tensor is left out: %s", path.name, listing(strange))
    return found


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, _DESCRIBED)


def _check(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse what no gate before should have let through."""
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.dtype in PLAIN
    if not plain or tensor.is_quantized:
        raise RequestError(
            f"{path}: {shown(name)} is no dense tensor of plain numbers, but one of {tensor.dtype}: "
            "save the weights as dense float tensors"
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise RequestError(f"{path}: {shown(name)} repeats its numbers (an expanded view); save a contiguous copy")
