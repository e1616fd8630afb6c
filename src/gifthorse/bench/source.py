"""What a method is written in, as part of the keys of its results: an edited one must not answer with its old."""

import sys
from functools import cache
from pathlib import Path

from gifthorse.bench.plugins import PLUGINS, plugins_of
from gifthorse.core.configuration import Configuration, file_digest


def sources_of(*configurations: Configuration) -> list[str]:
    """Return the SHA-256 of the files that define the classes and their bases, the standard library's excepted.

    What was typed into an interpreter has no file and gives none. Of a plugin it is what was run, whatever the file
    holds by now.
    """
    classes = [type(each) for each in configurations]
    found = {source_of(name) for cls in classes for name in _modules(cls) - PLUGINS.keys()}
    found |= {plugin.source.digest for plugin in plugins_of(*classes)}
    return sorted(digest for digest in found if digest is not None)


def source_files(*classes: type[Configuration]) -> set[Path]:
    """Return the files that define classes and their bases, as :func:`sources_of` has them."""
    files = (getattr(sys.modules.get(name), "__file__", None) for cls in classes for name in _modules(cls))
    return {Path(file) for file in files if file is not None} | {plugin.source.path for plugin in plugins_of(*classes)}


def _modules(cls: type[Configuration]) -> set[str]:
    bases = [base for base in cls.__mro__ if base not in Configuration.__mro__]
    # ``Defense[ModelView]`` is said to be of whatever module wrote that first; ``Defense`` is a base as well.
    modules = {b.__module__ for b in bases if not getattr(b, "__pydantic_generic_metadata__", {}).get("origin")}
    return {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}


@cache
def source_of(module: str) -> str | None:
    """Return the SHA-256 of an imported module's file, read once per process: what runs is what was imported."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else file_digest(Path(file))
