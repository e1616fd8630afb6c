"""Reads the weights of a checkpoint that nobody vouches for, without running anything that it contains.

The file's content decides what it is, never its name. Accepted are safetensors, state dicts that ``torch.save`` wrote
(both of its formats) and arrays that ``numpy.savez`` wrote. Everything that can only be opened by running it is
refused with a sentence that says what to ask for instead.

Nothing is unpickled, neither by Python nor by torch. What a pickle says is followed with plain values alone
(:mod:`gifthorse.checkpoints.pickles`); whatever asks for more than a fixed list of names is refused. Tensors are then
made from the bytes that the same reader read, within sizes that were checked before.
"""

import io
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import safe_open
from torch import Tensor

from gifthorse.checkpoints import numpy_values, plain_values, torch_values
from gifthorse.checkpoints.archives import Archive, read_bytes
from gifthorse.checkpoints.building import build
from gifthorse.checkpoints.containers import find_weights
from gifthorse.checkpoints.limits import Limits
from gifthorse.checkpoints.listing import listing, shown
from gifthorse.checkpoints.onnx_graph import is_onnx
from gifthorse.checkpoints.pickles import PickleReader
from gifthorse.checkpoints.plain_values import Unread
from gifthorse.checkpoints.torch_values import PickledStorage, to_storage
from gifthorse.core.errors import RequestError

MAX_BYTES = 8 * 2**30
"""The largest checkpoint that is read unless the caller says otherwise, unpacked: 8 GiB."""
_LIMITS = Limits()

_MAKERS: dict[str, Callable[..., Any]] = {**numpy_values.STAND_INS, **plain_values.STAND_INS, **torch_values.STAND_INS}

# What stands for tensors other than dense ones of plain numbers in a pickle of torch.
_OTHER_TENSORS = re.compile(
    r"torch\.(\w+Storage|storage\.\w+|_utils\._rebuild_\w+|_tensor\._rebuild_\w+|serialization\._get_layout"
    r"|per_(tensor|channel)_\w+|(q?u?int|complex|float|bits)\w+)"
)
_LONGEST_HEADER = 100_000_000  # of safetensors, by its specification
_HEADER_BYTES = 256  # of it a tensor's, more than names take
_LONGEST_ARRAY_HEADER = 2**14
_GLANCE = 2**20  # bytes that tell what a file of no accepted format is
_LEGACY = 0x1950A86A20F9469CFC6C  # what the first of its pickles holds
_LEGACY_PICKLES = 4  # that follow
_COUNT_BYTES = 8
_ADVICE = (
    "ask for the weights alone, as safetensors or from torch.save(model.state_dict(), path), or convert it in a sandbox"
)
_ENDINGS = (".bin", ".ckpt", ".npz", ".pt", ".pth", ".safetensors", ".tar")
_RUNS_CODE = {
    "constants.pkl": "a TorchScript archive",
    "archive_format": "a torch.export archive",
    "serialized_exported_program.json": "a torch.export archive",
}
_UNKNOWN = "of no format that is known here: safetensors, or a state dict from torch.save"
_STRANGERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull` where it comes from",
    b"<": "a web page or XML, so the download probably failed",
    b"\x89HDF": "an HDF5 file (Keras); save the weights as safetensors",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
}


def read_state_dict(
    path: Path, *, entry: str | None = None, max_bytes: int = MAX_BYTES, limits: Limits = _LIMITS
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU, as the file has them.

    Where the file holds more than weights, they are taken from its entry ``state_dict``, ``model_state_dict``,
    ``model`` (as BackdoorBench has it) or ``net``, from the only entry that holds weights, or from ``entry``, which
    may be a path (``checkpoint.state_dict``). Names are not changed, see
    :func:`gifthorse.checkpoints.matching.load_into`.

    Raises :class:`RequestError` for a file that is missing, damaged, unpacks to more than ``max_bytes``, would take
    more than ``limits`` to read, holds no weights or several to choose from, or could only be opened by running code;
    then none of it has run.
    """
    if path.is_dir():
        raise RequestError(f"there is no checkpoint at {path}, which is a folder: name a file in it")
    if not path.is_file():
        raise RequestError(f"there is no checkpoint at {path}")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > max_bytes:
                raise RequestError(f"{path} has {size} bytes, more than the {max_bytes} that are allowed")
            loaded, most = _read(path, file, max_bytes, limits)
            return build(path, find_weights(path, loaded, entry), most, limits)
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # hostile bytes make parsers raise anything
        raise RequestError(f"{path} is damaged, or no checkpoint: {_reason(error)}") from error


def _read(path: Path, file: BinaryIO, max_bytes: int, limits: Limits) -> tuple[object, int]:
    """Return what the file holds and how many bytes of tensors that can be."""
    size = path.stat().st_size
    head = file.read(32)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= _LONGEST_HEADER:
        return _read_safetensors(path, length, limits), size
    if head.startswith(b"PK"):
        archive = Archive(path, file, max_bytes, limits)
        return _read_archive(archive, limits.operations_of(size), limits), archive.unpacked
    if head.startswith(b"\x80"):
        return _read_legacy(path, file, size, limits), size
    raise RequestError(f"{path} is {_stranger(file, head, limits)}")


def _read_safetensors(path: Path, length: int, limits: Limits) -> dict[str, Tensor]:
    if length > limits.tensors * _HEADER_BYTES:
        raise RequestError(f"{path} has a header of {length} bytes, more than {limits.tensors} tensors need")
    with safe_open(path, framework="pt") as tensors:
        names = tensors.keys()
        if len(names) > limits.tensors:
            raise RequestError(f"{path} has {len(names)} tensors, more than the {limits.tensors} that are allowed")
        return {name: tensors.get_tensor(name) for name in names}


def _read_archive(archive: Archive, operations: int, limits: Limits) -> object:
    path, names = archive.path, list(archive.sizes)
    leaves = [name.lower().rpartition("/")[2] for name in names]
    for leaf, kind in _RUNS_CODE.items():
        if leaf in leaves:
            raise RequestError(f"{path} is {kind}: opening it runs code that it contains; {_ADVICE}")
    if names and all(leaf.endswith(".npy") for leaf in leaves):
        return {name[: -len(".npy")]: _read_npy(archive, name) for name in names}
    if leaves.count("data.pkl") != 1:
        packed = listing(name for name in names if name.lower().endswith(_ENDINGS))
        advice = f"; unpack it first, it has {packed}" if packed else ""
        raise RequestError(f"{path} is a zip archive, but no checkpoint that torch.save wrote{advice}")
    pickle = names[leaves.index("data.pkl")]
    folder = pickle[: -len("data.pkl")]
    if not all(name.startswith(folder) for name in names):
        raise RequestError(f"{path} is damaged, or no checkpoint: it has members outside of its folder")
    size = archive.sizes[pickle]
    if size > limits.pickle_bytes:
        raise RequestError(f"{path} holds a pickle of {size} bytes; no plain state dict needs so many")
    order = f"{folder}byteorder"
    swapped = order in archive.sizes and archive.beginning(order, 8) == b"big"

    @cache
    def read(key: str, width: int) -> Tensor:
        content = archive.read(f"{folder}data/{key}")
        return content.view(-1, width).flip(1).flatten() if swapped and width > 1 else content

    stream = io.BytesIO(archive.beginning(pickle, size))
    reader = PickleReader(stream, _MAKERS, partial(to_storage, read=read), limits, operations)
    return _followed(path, reader)


def _read_npy(archive: Archive, name: str) -> Tensor:
    head = io.BytesIO(archive.beginning(name, _LONGEST_ARRAY_HEADER))
    version = np.lib.format.read_magic(head)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings(action="ignore"):
        shape, fortran, dtype = header(head)
    if numpy_values.bytes_of(dtype.str, shape) != archive.sizes[name] - head.tell():
        raise ValueError("a numpy array's shape does not agree with its data")
    content = archive.read(name, skip=head.tell())
    return numpy_values.to_tensor(content.numpy(), dtype.str, shape, fortran=fortran)


def _read_legacy(path: Path, file: BinaryIO, size: int, limits: Limits) -> object:
    """Read what ``torch.save`` wrote before it wrote archives: pickles, then keys of storages, then their numbers."""
    places: dict[str, tuple[int, int]] = {}
    widths: dict[str, int] = {}

    @cache
    def read(key: str, _: int) -> Tensor:
        if key not in places:
            raise ValueError("it claims more numbers than it holds")
        start, length = places[key]
        file.seek(start)
        return read_bytes(file, length)

    def storage(reference: object) -> object:
        made = to_storage(reference, read)
        if isinstance(made, PickledStorage):
            widths.setdefault(made.key, made.dtype.itemsize)
        return made

    file.seek(0)
    stream = io.BytesIO(file.read(limits.pickle_bytes))
    reader = PickleReader(stream, _MAKERS, storage, limits, limits.operations_of(size))
    first = _first(reader)
    if type(first) is not int or first != _LEGACY:
        raise RequestError(f"{path} is {_plain_pickle(reader)}")
    *_, loaded, keys = [_followed(path, reader) for _ in range(_LEGACY_PICKLES)]
    start = stream.tell()
    for key in keys:
        file.seek(start)
        start += _COUNT_BYTES
        length = int.from_bytes(file.read(_COUNT_BYTES), "little") * widths[key]
        places[key] = start, length
        start += length
    if start > size:
        raise ValueError("it claims more numbers than it holds")
    return loaded


def _followed(path: Path, reader: PickleReader) -> Any:
    """Return what the next pickle holds; :class:`RequestError` where it asks for what nothing stands in for."""
    try:
        return reader.read()
    finally:
        _refuse_strange(path, reader.strange())


def _refuse_strange(path: Path, strange: list[str]) -> None:
    if strange and all(_OTHER_TENSORS.fullmatch(name) for name in strange):
        raise RequestError(
            f"{path} holds other tensors than dense ones of plain numbers ({listing(strange)}): save the weights as "
            "dense float tensors, those of the network before it was quantised"
        )
    if strange:
        raise RequestError(
            f"{path} is a whole pickled module, or holds other objects beside its weights: opening it would run "
            f"{listing(strange)}; nothing was run; {_ADVICE}"
        )


def _first(reader: PickleReader) -> object:
    """Return what the first pickle holds, ``None`` where it is a damaged one that asks for something."""
    try:
        return reader.read()
    except Exception:
        if reader.names:
            return None
        raise


def _plain_pickle(reader: PickleReader) -> str:
    """Say what a pickle is that torch did not write."""
    asks = f" and asks for {listing(sorted(reader.names))}" if reader.names else ""
    return f"a pickle, which runs code when it is opened{asks}; nothing was run; {_ADVICE}"


def _stranger(file: BinaryIO, head: bytes, limits: Limits) -> str:
    """Say what a file of no accepted format is."""
    if not head:
        return "empty"
    for beginning, kind in _STRANGERS.items():
        if head.startswith(beginning):
            return kind
    content = mmap(file.fileno(), 0, access=ACCESS_READ)
    if is_onnx(content):
        return "an ONNX model: it can only be used as a black box, see gifthorse.checkpoints.onnx_model.OnnxModel"
    if content[257:262] == b"ustar":
        return f"a tar archive, as early versions of torch wrote; {_ADVICE}"
    reader = PickleReader(io.BytesIO(content[:_GLANCE]), {}, Unread, limits, limits.operations_of(0))
    with suppress(Exception):  # most are no pickles
        _first(reader)
        return _plain_pickle(reader) if reader.names else _UNKNOWN
    return _UNKNOWN


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return shown((str(error).splitlines() or [""])[0] or type(error).__name__)
