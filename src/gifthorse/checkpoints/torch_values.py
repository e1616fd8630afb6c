"""Tensors as torch pickles them: a place in a storage, and a shape. They are made when they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gifthorse.checkpoints.numpy_values import PLAIN, count, whole
from gifthorse.checkpoints.plain_values import PickledName, Unread

_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


@dataclass(frozen=True, eq=False)
class PickledStorage:
    """Numbers that a pickle refers to by a key: ``length`` of them, and how to read their bytes (``uint8``)."""

    key: str
    dtype: torch.dtype
    length: int
    read: Callable[[], Tensor]


def to_storage(reference: Any, read: Callable[[str, int], Tensor]) -> PickledStorage | Unread:
    """Return the storage that a pickle refers to, if it does refer to one of plain numbers.

    ``read`` gives the bytes of a storage by its key, and by how many bytes a number has.
    """
    match reference:
        # The last is a part of the storage, which no torch since 0.4 has written.
        case ("storage", PickledName(name=name), str(key), _, int(length), *rest) if rest in ([], [None]):
            dtype = _STORAGES.get(name)
            if dtype is not None:
                width = dtype.itemsize
                return PickledStorage(key, dtype, whole((length,))[0], lambda: read(key, width))
    return Unread()


class PickledTensor:
    """What a pickled tensor becomes."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
        # Whether it requires gradients, hooks, and whether it is to be conjugated or negated.
        self.altered = any(rest[2:])

    def tensor(self) -> Tensor:
        """Return the tensor; ``ValueError`` where it does not lie within its storage."""
        storage, offset, size, stride = self.storage, self.offset, self.size, self.stride
        if not isinstance(storage, PickledStorage) or self.altered:
            raise ValueError("it has a tensor without a storage of plain numbers")
        numbers = count(size)
        whole((*whole(stride), offset))
        if len(size) != len(stride):
            raise ValueError("it has a tensor whose shape does not agree with its strides")
        reach = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True)) + 1 if numbers else 0
        content = storage.read()
        if max(reach, storage.length) * storage.dtype.itemsize > len(content):
            raise ValueError("it claims more numbers than it holds")
        held = content[: storage.length * storage.dtype.itemsize].view(storage.dtype)
        if reach > storage.length:
            raise ValueError("it has a tensor that reaches out of its storage")
        return held.as_strided(size, stride, offset) if numbers else held.new_empty(size)


STAND_INS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_STORAGES, Unread),
    **{f"torch.{str(kind).removeprefix('torch.')}": Unread for kind in (*PLAIN, torch.complex64, torch.complex128)},
    "builtins.complex": Unread,
    "builtins.set": Unread,
    "torch.Size": lambda sides=(): sides,
    "torch.device": Unread,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_tensor": PickledTensor,
    "torch._utils._rebuild_tensor_v2": PickledTensor,
}
"""What stands in for each name that pickled tensors ask for."""
