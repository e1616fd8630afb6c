"""What a pickle would import if someone loaded it, found by disassembly: nothing is imported and nothing is run."""

import io
import pickletools

LONGEST_PICKLE = 64 * 2**20
"""Bytes of pickle that are looked at; the tensors' own data are kept elsewhere, so no sound checkpoint has as many."""

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


def wanted_globals(content: bytes, pickles: int = 1) -> set[str]:
    """Return the dotted names that the first ``pickles`` pickles in ``content`` would import.

    A name that the pickle puts together while it runs is guessed from the strings before it. Raises ``ValueError``
    where ``content`` does not begin with so many complete pickles.
    """
    stream = io.BytesIO(content)
    names: set[str] = set()
    for _ in range(pickles):
        strings = ("", "")
        pushed: str | None = None
        memo: dict[object, str | None] = {}
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name == "MEMOIZE":
                memo[len(memo)] = pushed
            elif operation.name.endswith("PUT"):
                memo[argument] = pushed
            elif operation.name in ("GLOBAL", "INST"):
                names.add(str(argument).replace(" ", "."))
                pushed = None
            elif operation.name == "STACK_GLOBAL":
                names.add(".".join(strings))
                pushed = None
            elif operation.name.startswith("EXT"):
                names.add(f"copyreg extension {argument}")
                pushed = None
            else:
                kept = memo.get(argument) if operation.name.endswith("GET") else argument
                pushed = kept if isinstance(kept, str) else None
                strings = strings if pushed is None else (strings[1], pushed)
    return names


def current_name(name: str) -> str:
    """Return what Python 3 calls a name that a pickle asks for."""
    module, _, rest = name.partition(".")
    return _RENAMED.get(name, f"builtins.{rest}" if module == "__builtin__" else name)


def pickle_protocol(content: bytes) -> int:
    """Return the protocol that a pickle declares; 0 where it declares none."""
    return content[1] if content[:1] == b"\x80" and len(content) > 1 else 0
