"""What a pickle says, followed without running it: nothing is imported, and nothing is called but a fixed list.

The list maps names to functions that only keep what they are given. Any other name is written down and answered by
:class:`gifthorse.checkpoints.plain_values.Unread`, so that a refusal can say everything that a pickle asks for.
"""

import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

from gifthorse.checkpoints.limits import Limits
from gifthorse.checkpoints.numpy_values import PickledArray, PickledType
from gifthorse.checkpoints.plain_values import PickledName, Unread

# The protocol that torch.save uses has the names of Python 2.
_RENAMED = {
    "__builtin__.long": "builtins.int",
    "__builtin__.unicode": "builtins.str",
    "__builtin__.xrange": "builtins.range",
    "UserDict.IterableUserDict": "collections.UserDict",
    "UserDict.UserDict": "collections.UserDict",
    "UserList.UserList": "collections.UserList",
    "UserString.UserString": "collections.UserString",
}
_KEYS = (str, bytes, float, bool, type(None))
_LARGEST_KEY = 2**60  # larger numbers can be chosen to share a hash

_ARGUMENTS = (
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)


class PickleReader:
    """Reads the pickles that follow each other in ``stream``, in no more than ``operations`` steps altogether.

    ``makers`` has what stands in for the names that are known; ``persistent`` is asked for what the pickle refers to
    outside of itself. Dictionaries keep plain keys alone, others are replaced by objects that equal nothing.
    """

    def __init__(
        self,
        stream: BinaryIO,
        makers: Mapping[str, Callable[..., Any]],
        persistent: Callable[[object], object],
        limits: Limits,
        operations: int,
    ):
        self.names: set[str] = set()
        """Every name asked for so far, as the pickle has it."""
        self._stream, self._persistent = stream, persistent
        self._makers: dict[str, Callable[..., Any]] = {
            **makers,
            "collections.OrderedDict": self._mapping,
            "collections.Counter": self._mapping,
            "_codecs.encode": self._encoded,
        }
        self._left, self._most_encoded = operations, limits.pickle_bytes
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        push, pop = self._push, self._pop
        self._steps: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(_ARGUMENTS, push),
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda place: push(self._memo[place])),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_TUPLE": lambda _: push(()),
            "EMPTY_SET": lambda _: push(Unread()),
            "MARK": lambda _: self._marks.append(len(self._stack)),
            "POP": lambda _: self._drop(),
            "POP_MARK": lambda _: self._drop_to_mark(),
            "DUP": lambda _: push(self._stack[-1]),
            "TUPLE": lambda _: push(tuple(self._to_mark())),
            "TUPLE1": lambda _: push((pop(),)),
            "TUPLE2": lambda _: push((pop(), pop())[::-1]),
            "TUPLE3": lambda _: push((pop(), pop(), pop())[::-1]),
            "LIST": lambda _: push(self._to_mark()),
            "DICT": lambda _: push(_paired(self._to_mark())),
            "FROZENSET": lambda _: self._unread(self._to_mark()),
            "APPEND": lambda _: self._append([pop()]),
            "APPENDS": lambda _: self._append(self._to_mark()),
            "ADDITEMS": lambda _: self._append(self._to_mark()),
            "SETITEM": lambda _: self._set([pop(), pop()][::-1]),
            "SETITEMS": lambda _: self._set(self._to_mark()),
            "GLOBAL": lambda name: self._name(name.replace(" ", ".")),
            "STACK_GLOBAL": lambda _: self._name(".".join((_text(pop()), _text(pop()))[::-1])),
            **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda code: self._name(f"copyreg extension {code}")),
            "REDUCE": lambda _: self._call(pop()),
            "NEWOBJ": lambda _: self._call(pop()),
            "NEWOBJ_EX": lambda _: self._call((pop(), pop())[1]),
            "INST": self._instance,
            "OBJ": lambda _: self._object(self._to_mark()),
            "BUILD": lambda _: self._build(pop()),
            "PERSID": lambda name: push(self._persistent(name)),
            "BINPERSID": lambda _: push(self._persistent(pop())),
        }

    def read(self) -> Any:
        """Return what the next pickle holds; ``ValueError`` and others where it is damaged or too long."""
        self._stack, self._marks, self._memo = [], [], {}
        steps = self._steps
        for operation, argument, _ in pickletools.genops(self._stream):
            self._left -= 1
            if self._left < 0:
                raise self._too_long()
            step = steps.get(operation.name)
            if step is None:
                raise ValueError(f"no checkpoint has the pickle operation {operation.name}")
            step(argument)
        return self._pop()

    def strange(self) -> list[str]:
        """Return the names asked for that nothing is known to stand in for, in order."""
        return sorted(name for name in self.names if _current(name) not in self._makers)

    def _too_long(self) -> ValueError:
        return ValueError("its pickle has more steps than Limits.operations, or far more than the file has bytes")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        return self._stack.pop()

    def _to_mark(self) -> list[Any]:
        """Return and remove what lies above the last mark."""
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def _drop(self) -> None:
        # POP takes a mark away where nothing lies above it.
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _drop_to_mark(self) -> None:
        self._to_mark()

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _unread(self, _: object) -> None:
        self._push(Unread())

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Unread):
            raise ValueError("its pickle appends to something that is no list")

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            target.update(_paired(values))
        elif not isinstance(target, Unread):
            raise ValueError("its pickle sets items of something that is no dictionary")

    def _name(self, name: str) -> None:
        self.names.add(name)
        self._push(PickledName(name))

    def _call(self, arguments: Any) -> None:
        self._push(self._made(self._pop(), arguments))

    def _instance(self, name: str) -> None:
        self._name(name.replace(" ", "."))
        self._push(self._made(self._pop(), tuple(self._to_mark())))

    def _object(self, values: list[Any]) -> None:
        self._push(self._made(values[0], tuple(values[1:])))

    def _made(self, what: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple):
            raise TypeError("its pickle calls something with what are no arguments")
        maker = self._makers.get(_current(what.name)) if isinstance(what, PickledName) else None
        return Unread() if maker is None else maker(*arguments)

    def _build(self, state: Any) -> None:
        """Set the state of an object; whatever is no number has none."""
        target = self._stack[-1]
        if isinstance(target, PickledArray | PickledType):
            target.__setstate__(state)

    def _mapping(self, items: Any = (), *_: object) -> dict[Any, Any]:
        """Return what a dictionary is called with, which may be shared: copying it takes steps as well."""
        self._left -= len(items)
        if self._left < 0:
            raise self._too_long()
        pairs: Iterable[Any] = items.items() if isinstance(items, dict) else items
        return {_key(key): value for key, value in pairs}

    def _encoded(self, text: str, encoding: str) -> bytes:
        """Return the bytes that a pickle of Python 2 has as text, which may be shared as well."""
        self._most_encoded -= len(text)
        if encoding != "latin1" or self._most_encoded < 0:
            raise ValueError("its pickle encodes more text than it has, or otherwise than pickles do")
        return text.encode("latin1")


def _current(name: str) -> str:
    """Return what Python 3 calls a name that a pickle asks for."""
    module, _, rest = name.partition(".")
    return _RENAMED.get(name, f"builtins.{rest}" if module == "__builtin__" else name)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("its pickle has a name that is no text")
    return value


def _paired(values: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _key(key: Any) -> Any:
    """Return a key that is quickly hashed and compared, whatever it is made of: tuples of tuples can be huge."""
    if isinstance(key, _KEYS) or (isinstance(key, int) and abs(key) < _LARGEST_KEY):
        return key
    return Unread()
