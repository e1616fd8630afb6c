"""Plain data that training code pickles beside its weights, read inertly: nothing is imported, and nothing is kept.

A namespace of options, a date, a path or a ``defaultdict`` says nothing about the weights, and none of it is needed.
The names that such values are pickled under are answered by the classes here, whatever they are called with or told to
become. The list is fixed: what is not on it, such as a class of the user's own code, is refused by name.
"""

from typing import Any


class PickledName:
    """What a pickle would import."""

    def __init__(self, name: str):
        self.name = name


class Unread:
    """What becomes of a value that nobody looks at."""

    def __init__(self, *_: object):
        pass

    def __str__(self) -> str:
        return "(a value of another kind)"


class UnreadMapping:
    """What a kind of dictionary is made by: a plain one, so that weights in it are found."""

    def __new__(cls, *_: object) -> Any:
        """Return an empty dictionary; the pickle fills it."""
        return {}


class UnreadSequence:
    """What a kind of list is made by: a plain one."""

    def __new__(cls, *_: object) -> Any:
        """Return an empty list; the pickle fills it."""
        return []


_TYPES = ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "object", "range", "slice", "str", "tuple")
_PATHS = ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
_NUMBERS = (
    *("bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", "str_", "bytes_"),
)
_LIGHTNING = ("lightning.fabric", "lightning.pytorch", "lightning_fabric", "pytorch_lightning")

_VALUES = [
    "argparse.Namespace",
    "array.array",
    "array._array_reconstructor",
    "builtins.Ellipsis",
    "collections.ChainMap",
    "collections.UserDict",
    "collections.UserList",
    "collections.UserString",
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    "decimal.Decimal",
    "fractions.Fraction",
    "functools.partial",
    "http.HTTPStatus",
    *(f"ipaddress.IPv{version}{kind}" for version in "46" for kind in ("Address", "Interface", "Network")),
    "platform.uname_result",
    "random.Random",
    "re._compile",
    "time.struct_time",
    "types.SimpleNamespace",
    "uuid.SafeUUID",
    "uuid.UUID",
    *(f"builtins.{name}" for name in _TYPES),
    # Python 3.13 alone calls the module of paths by its inner name.
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *(f"numpy.{name}" for name in _NUMBERS),
    "numpy.ma.MaskedArray",
    "numpy.ma.core.MaskedArray",
    "numpy.ma.core._mareconstruct",
    "numpy.matrix",
    "numpy.rec.recarray",
    "numpy.record",
    "torch._C.Generator",
    "torch.torch_version.TorchVersion",
    "mmengine.logging.history_buffer.HistoryBuffer",
    # Lightning once kept the state of a callback under its class.
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
]
_MAPPINGS = [
    "collections.defaultdict",
    *(f"{package}.utilities.{module}.AttributeDict" for package in _LIGHTNING for module in ("data", "parsing")),
    "addict.addict.Dict",
    "easydict.EasyDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "munch.Munch",
    "yacs.config.CfgNode",
]

STAND_INS: dict[str, type] = {
    # A class for each name, called like it, so that a message can say what was there.
    **{name: type(name.rpartition(".")[2], (Unread,), {}) for name in _VALUES},
    **dict.fromkeys(_MAPPINGS, UnreadMapping),
    "collections.deque": UnreadSequence,
}
"""What stands in for each name that plain values ask for."""
