"""Checkpoints for tests: written to memory, read or refused."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gifthorse.checkpoints.reading import read_state_dict
from gifthorse.core.errors import RequestError


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "conv.bias": torch.randn(4, generator=generator).half(),
        "bn.scale": torch.randn(4, generator=generator).bfloat16(),
        "bn.num_batches_tracked": torch.tensor(7),
        "wide": torch.randn(2, 2, generator=generator, dtype=torch.float64),
        "mask": torch.tensor([True, False]),
        "none": torch.empty(0, 3),
    }


def saved(value: object, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read(folder: Path, content: bytes, name: str = "model.pt", **options: Any) -> dict[str, Tensor]:
    path = folder / name
    path.write_bytes(content)
    return read_state_dict(path, **options)


def refusal(folder: Path, content: bytes, name: str = "model.pt", **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        read(folder, content, name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_only=False" not in message
    assert "\x1b" not in message
    return message


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert type(found[name]) is Tensor
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor), name


def read_or_refuse(folder: Path, content: bytes) -> None:
    """Anything but tensors or a RequestError is a failure."""
    try:
        found = read(folder, content)
    except RequestError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(tensor, Tensor) for tensor in found.values())
        assert sum(tensor.double().nan_to_num().isfinite().sum().item() for tensor in found.values()) >= 0


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call
