"""Numbers and arrays that numpy pickled, read without numpy's own unpickling.

numpy's ``dtype.__setstate__`` and ``scalar`` trust the file: flags and field offsets of its choice reach raw memory.
So the names that they are pickled under are answered by the inert classes here, which only keep what they are given
until somebody asks for a tensor.
"""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KINDS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


def to_tensor(content: bytes, dtype: str, shape: tuple[int, ...], *, fortran: bool = False) -> Tensor:
    """Return a tensor of ``shape`` from raw bytes.

    ``dtype`` is a byte order and a plain number type, such as ``<f4``; ``fortran`` says that the first axis varies
    fastest. Raises ``ValueError`` for any other type, and where bytes and shape do not agree.
    """
    if dtype[1:] not in _KINDS or dtype[0] not in "<>=|":
        raise ValueError(f"numpy values of type {dtype} are no plain numbers, they may hide pickled objects")
    if min(shape, default=0) < 0 or prod(shape) * int(dtype[2:]) != len(content):
        raise ValueError("a numpy array's shape does not agree with its data")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


class PickledType:
    """What a pickled ``numpy.dtype`` becomes."""

    def __init__(self, code: object, *_: object):
        self.code = str(code)
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])


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
        _, shape, dtype, fortran, content = self.state
        return to_tensor(content, dtype.order + dtype.code, shape, fortran=bool(fortran))


STAND_INS: dict[str, type] = {
    "numpy.dtype": PickledType,
    "numpy.ndarray": PickledArray,
    # numpy 1 and numpy 2 call the same functions by different names.
    "numpy.core.multiarray._reconstruct": PickledArray,
    "numpy._core.multiarray._reconstruct": PickledArray,
    "numpy.core.multiarray.scalar": PickledScalar,
    "numpy._core.multiarray.scalar": PickledScalar,
}
"""What stands in for each name that pickled numpy values ask for."""
