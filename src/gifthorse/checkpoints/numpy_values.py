"""Numbers and arrays that numpy pickled, read without numpy's own unpickling.

numpy's ``dtype.__setstate__`` and ``scalar`` trust the file: flags and field offsets of its choice reach raw memory.
So the names that they are pickled under are answered by the inert classes here, which only keep what they are given
until somebody asks for a tensor.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KINDS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_MOST_AXES = 64
_MOST = 2**60

PLAIN = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
)
"""The types of tensors that are read."""


def whole(numbers: Any) -> tuple[int, ...]:
    """Return sides, strides or the like; ``ValueError`` where they are no whole numbers, or none that memory has."""
    if not isinstance(numbers, tuple) or len(numbers) > _MOST_AXES:
        raise ValueError("a shape is no shape, or has too many sides")
    if not all(type(number) is int and 0 <= number < _MOST for number in numbers):
        raise ValueError("a shape with negative or impossibly large sides does not agree with any data")
    return numbers


def count(shape: Any) -> int:
    """Return how many numbers a shape has; ``ValueError`` as in :func:`whole`."""
    # One side may be 0, and none of the others counts then; torch multiplies them all the same.
    whole((prod(max(side, 1) for side in whole(shape)),))
    return prod(shape)


def bytes_of(dtype: str, shape: Any) -> int:
    """Return how many bytes an array takes.

    ``dtype`` is a byte order and a plain number type, such as ``<f4``. Raises ``ValueError`` for any other type, and
    for what is no shape.
    """
    if dtype[1:] not in _KINDS or dtype[0] not in "<>=|":
        raise ValueError(f"numpy values of type {dtype[:100]} are no plain numbers, they may hide pickled objects")
    return count(shape) * int(dtype[2:])


def to_tensor(content: Any, dtype: str, shape: Any, *, fortran: bool = False) -> Tensor:
    """Return a tensor of ``shape`` from raw bytes, or whatever has some.

    ``dtype`` is that of :func:`bytes_of`; ``fortran`` says that the first axis varies fastest. Raises ``ValueError``
    where bytes and shape do not agree.
    """
    if bytes_of(dtype, shape) != len(content):
        raise ValueError("a numpy array's shape does not agree with its data")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    native = array.dtype.newbyteorder("=")
    # Bytes of a pickle cannot be written to, so they are copied.
    return torch.from_numpy(array.astype(native, order="C", copy=not array.flags.writeable))


class PickledType:
    """What a pickled ``numpy.dtype`` becomes."""

    def __init__(self, code: object, *_: object):
        self.code = code if isinstance(code, str) else ""
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state[1], str) else ""


class PickledScalar:
    """What a pickled numpy number becomes."""

    def __init__(self, dtype: Any, content: Any = b""):
        self.dtype, self.content = dtype, content

    def tensor(self) -> Tensor:
        """Return the number as a tensor of shape ``()``."""
        return to_tensor(self.content, self.dtype.order + self.dtype.code, ())


class PickledArray:
    """What a pickled ``numpy.ndarray`` becomes."""

    def __init__(self, *_: object):
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor:
        """Return the array as a tensor of its shape."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("a numpy array is pickled in an unknown way")
        _, shape, dtype, fortran, content = self.state
        return to_tensor(content, dtype.order + dtype.code, shape, fortran=bool(fortran))


def _from_buffer(content: object, dtype: object, shape: object, order: object, *_: object) -> PickledArray:
    """Return what an array becomes that the newest pickle protocol has, in which order its axes lie."""
    array = PickledArray()
    if order in ("C", "F"):
        array.__setstate__((1, shape, dtype, order == "F", content))
    return array


STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": PickledType,
    "numpy.ndarray": PickledArray,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    # numpy 1 and numpy 2 call the same functions by different names.
    "numpy.core.multiarray._reconstruct": PickledArray,
    "numpy._core.multiarray._reconstruct": PickledArray,
    "numpy.core.multiarray.scalar": PickledScalar,
    "numpy._core.multiarray.scalar": PickledScalar,
}
"""What stands in for each name that pickled numpy values ask for."""
