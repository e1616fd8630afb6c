"""Reads the weights of a checkpoint that nobody vouches for, without running anything that it contains.

The file's content decides what it is, never its name. Accepted are safetensors, state dicts that ``torch.save`` wrote
(both of its formats) and arrays that ``numpy.savez`` wrote. Everything that can only be opened by running it is
refused with a sentence that says what to ask for instead.

Pickled state dicts pass two gates. Their pickle is disassembled first, and whatever asks for more than the fixed list
below is refused before any of it is interpreted: the list is far shorter than what ``weights_only`` lets through. Then
``torch.load(weights_only=True)`` reads them.
"""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.torch_version import TorchVersion

from gifthorse.checkpoints import numpy_values, plain_values
from gifthorse.checkpoints.containers import find_weights
from gifthorse.checkpoints.listing import listing, shown
from gifthorse.checkpoints.onnx_graph import is_onnx
from gifthorse.checkpoints.pickle_globals import LONGEST_PICKLE, current_name, pickle_protocol, wanted_globals
from gifthorse.core.errors import RequestError

MAX_BYTES = 8 * 2**30
"""The largest checkpoint that is read unless the caller says otherwise, unpacked: 8 GiB."""

_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_TYPES = (
    "complex128",
    "complex64",
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)
_STAND_INS = {**numpy_values.STAND_INS, **plain_values.STAND_INS}
_HARMLESS = {
    *_STAND_INS,
    *(f"torch.{kind}Storage" for kind in _STORAGES),
    *(f"torch.{kind}" for kind in _TYPES),
    "builtins.complex",
    "builtins.set",
    "_codecs.encode",
    "collections.Counter",
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
}
# Before 2.6 and 2.10, files could run code or corrupt memory in spite of weights_only (CVE-2025-32434, CVE-2026-24747).
_SAFE_TORCH = "2.10"

# What stands for tensors other than dense ones of plain numbers in a pickle of torch.
_OTHER_TENSORS = re.compile(
    r"torch\.(\w+Storage|storage\.\w+|_utils\._rebuild_\w+|_tensor\._rebuild_\w+|serialization\._get_layout"
    r"|per_(tensor|channel)_\w+|(q?u?int|complex|float|bits)\w+)"
)
_NEWEST_PROTOCOL = 3  # that torch reads without running anything

_LONGEST_HEADER = 100_000_000  # of safetensors, by its specification
_LONGEST_PROTOBUF = 2**31
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PICKLES = 5
_ADVICE = (
    "ask for the weights alone, as safetensors or from torch.save(model.state_dict(), path), or convert it in a sandbox"
)
_ENDINGS = (".bin", ".ckpt", ".npz", ".pt", ".pth", ".safetensors", ".tar")
_RUNS_CODE = {
    "constants.pkl": "a TorchScript archive",
    "archive_format": "a torch.export archive",
    "serialized_exported_program.json": "a torch.export archive",
}
_STRANGERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull` where it comes from",
    b"<": "a web page or XML, so the download probably failed",
    b"\x89HDF": "an HDF5 file (Keras); save the weights as safetensors",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
}


def read_state_dict(path: Path, *, entry: str | None = None, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU, as the file has them.

    Where the file holds more than weights, they are taken from its entry ``state_dict``, ``model_state_dict``,
    ``model`` (as BackdoorBench has it) or ``net``, from the only entry that holds weights, or from ``entry``, which
    may be a path (``checkpoint.state_dict``). Names are not changed, see
    :func:`gifthorse.checkpoints.matching.load_into`.

    Raises :class:`RequestError` for a file that is missing, damaged, unpacks to more than ``max_bytes``, holds no
    weights or several to choose from, or could only be opened by running code; then none of it has run.
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
            loaded, most = _read(path, file, max_bytes)
        return _checked(path, find_weights(path, loaded, entry), most)
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # hostile bytes make parsers raise anything
        raise RequestError(f"{path} is damaged, or no checkpoint: {_reason(error)}") from error


def _read(path: Path, file: BinaryIO, max_bytes: int) -> tuple[object, int]:
    """Return what the file holds and how many bytes of tensors that can be."""
    size = path.stat().st_size
    head = file.read(32)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER:
        with safe_open(path, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}, size  # noqa: SIM118 it is no dict
    if head.startswith(b"PK"):
        return _read_zip(path, file, max_bytes)
    if head.startswith(b"\x80"):
        return _read_legacy(path, file), size
    raise RequestError(f"{path} is {_stranger(file, head)}")


def _read_zip(path: Path, file: BinaryIO, max_bytes: int) -> tuple[object, int]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > max_bytes:
            raise RequestError(f"{path} unpacks to {unpacked} bytes, more than the {max_bytes} that are allowed")
        # torch finds members whatever their case, so nothing may hide behind it.
        names = [member.filename.lower() for member in members]
        leaves = [name.rpartition("/")[2] for name in names]
        for leaf, kind in _RUNS_CODE.items():
            if leaf in leaves:
                raise RequestError(f"{path} is {kind}: opening it runs code that it contains; {_ADVICE}")
        if len(set(names)) < len(names):
            raise RequestError(f"{path} is a zip archive with several members of one name; it is refused")
        if members and all(leaf.endswith(".npy") for leaf in leaves):
            return {member.filename[: -len(".npy")]: _read_npy(archive, member) for member in members}, unpacked
        if leaves.count("data.pkl") != 1:
            packed = listing(member.filename for member in members if member.filename.lower().endswith(_ENDINGS))
            advice = f"; unpack it first, it has {packed}" if packed else ""
            raise RequestError(f"{path} is a zip archive, but no checkpoint that torch.save wrote{advice}")
        pickle = members[leaves.index("data.pkl")]
        if pickle.file_size > LONGEST_PICKLE:
            raise RequestError(f"{path} holds a pickle of {pickle.file_size} bytes; no plain state dict needs so many")
        content = archive.read(pickle)
        wanted, protocol = wanted_globals(content), pickle_protocol(content)
    return _load_pickled(path, file, wanted, protocol), unpacked


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        return numpy_values.to_tensor(file.read(), dtype.str, shape, fortran=fortran)


def _read_legacy(path: Path, file: BinaryIO) -> object:
    return _load_pickled(path, file, _wanted_of_legacy(path, file))


def _wanted_of_legacy(path: Path, file: BinaryIO) -> set[str]:
    file.seek(0)
    content = file.read(LONGEST_PICKLE)
    if content.startswith(_LEGACY):
        return wanted_globals(content, _LEGACY_PICKLES)
    wanted = wanted_globals(content)
    asks = f" and asks for {listing(sorted(wanted))}" if wanted else ""
    raise RequestError(f"{path} is a pickle, which runs code when it is opened{asks}; nothing was run; {_ADVICE}")


def _load_pickled(path: Path, file: BinaryIO, wanted: set[str], protocol: int = 2) -> object:
    strange = sorted(name for name in wanted if current_name(name) not in _HARMLESS)
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
    if TorchVersion(torch.__version__) < _SAFE_TORCH:
        raise RequestError(
            f"torch {torch.__version__} cannot open untrusted .pt files safely (CVE-2026-24747): "
            f"install torch {_SAFE_TORCH} or newer, or bring safetensors"
        )
    if protocol > _NEWEST_PROTOCOL:
        raise RequestError(
            f"{path} was saved with pickle protocol {protocol}, which torch can only open by running it: "
            "save it again without pickle_protocol=, or as safetensors"
        )
    file.seek(0)
    names = {current_name(name) for name in wanted}
    allowed: list[Any] = [(stand_in, name) for name, stand_in in _STAND_INS.items() if name in names]
    # An open file, not its path: torch picks another reader by the path's ending.
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings(action="ignore"):
        return torch.load(file, map_location="cpu", weights_only=True)


def _stranger(file: BinaryIO, head: bytes) -> str:
    """Say what a file of no accepted format is."""
    if not head:
        return "empty"
    for beginning, kind in _STRANGERS.items():
        if head.startswith(beginning):
            return kind
    file.seek(0)
    content = file.read(_LONGEST_PROTOBUF)
    if is_onnx(content):
        return "an ONNX model: it can only be used as a black box, see gifthorse.checkpoints.onnx_model.OnnxModel"
    if content[257:262] == b"ustar":
        return f"a tar archive, as early versions of torch wrote; {_ADVICE}"
    try:
        wanted = wanted_globals(content[:LONGEST_PICKLE])
    except ValueError:
        wanted = set()
    if wanted:
        return f"a pickle that asks for {listing(sorted(wanted))}; nothing was run; {_ADVICE}"
    return "of no format that is known here: safetensors, or a state dict from torch.save"


def _checked(path: Path, state: dict[str, Tensor], most: int) -> dict[str, Tensor]:
    """Return detached tensors; refuse any that claims more numbers than the file has bytes for."""
    storages: dict[int, int] = {}
    for name, tensor in state.items():
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise RequestError(f"{path}: {shown(name)} repeats its numbers (an expanded view); save a contiguous copy")
    if sum(storages.values()) > most:
        raise RequestError(f"{path} is damaged: it claims more numbers than it holds")
    return {name: tensor.detach() for name, tensor in state.items()}


def _reason(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    # torch recommends weights_only=False here; nobody should follow that.
    return shown(first) if first and "weights" not in first.lower() else type(error).__name__
