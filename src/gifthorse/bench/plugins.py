"""Methods in a Python file of the user's own: run because it was named, and listed beside all others."""

import hashlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from gifthorse.core.configuration import CATALOGUES, Configuration
from gifthorse.core.errors import RequestError, brief


class Source(NamedTuple):
    """A Python file: where it lies, and what was run of it, whatever it holds by now."""

    path: Path
    content: bytes

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def module(self) -> str:
        """Return the name of the module that it becomes, which follows from the path: the same in every process."""
        stem = re.sub(r"[^a-zA-Z0-9]", "_", self.path.stem)
        return f"gifthorse_plugin_{stem}_{hashlib.sha256(bytes(self.path)).hexdigest()[:8]}"


@dataclass(frozen=True)
class Plugin:
    """A file that was run, and what it listed."""

    source: Source
    listed: tuple[type[Configuration], ...]

    def gives(self, cls: type[Configuration]) -> bool:
        """Return whether a class, or one that it extends, is there because of this file."""
        return any(base in self.listed or base.__module__ == self.source.module for base in cls.__mro__)


PLUGINS: dict[str, Plugin] = {}
"""What was loaded, by the name of its module."""


def load_plugin(path: Path | str) -> Plugin:
    """Run a Python file and list its methods; the same file is not run again unless its content changed.

    Every concrete configuration that the file defines is listed, whether or not it says so itself.
    :class:`RequestError` where it cannot be read, fails, or lists a name that is taken; nothing of it is listed then.
    """
    if Path(path).suffix != ".py":
        raise RequestError(f"the plugin {path} is no Python file: its name does not end in .py")
    file = Path(path).resolve()
    try:
        return _load(Source(file, file.read_bytes()), path)
    except OSError as error:
        raise RequestError(f"the plugin {path} cannot be read: {error.strerror} ({file})") from None


def load_plugins(paths: Iterable[Path | str]) -> None:
    """Load files in their order; see :func:`load_plugin`. :class:`RequestError` has a line for each that cannot be."""
    problems = []
    for path in paths:
        try:
            load_plugin(path)
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(problems))


def loaded() -> list[Source]:
    """Return what was loaded, in order: what another process needs before it can unpickle objects of these classes."""
    return [plugin.source for plugin in PLUGINS.values()]


def load_as_elsewhere(sources: Iterable[Source]) -> None:
    """Run what another process has :func:`loaded`, even where the files were edited since or are not to be found."""
    for source in sources:
        _load(source, source.path)


def _load(source: Source, said: Path | str) -> Plugin:
    name = source.module
    known = PLUGINS.get(name)
    if known is not None and known.source == source:
        return known
    imported: list[type[Configuration]] = []
    if known is not None:
        # What the file imports is not run again, so that what was listed there stays.
        imported = [cls for cls in known.listed if cls.__module__ != name]
        del PLUGINS[name]
        _unlist(name)
    # Catalogues of kinds that nobody has asked for yet; packages are listed by looking, and keep their names.
    import_module("gifthorse.bench.cell")
    before = {*_listed()}
    try:
        module = _run(source)
        for cls in _defined(module):
            CATALOGUES[cls.catalogue].add(cls)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        _unlist(name)
        raise RequestError(f"the plugin {said} cannot be loaded: {brief(error, source.path)}") from error
    new = [cls for cls in _listed() if cls not in before]
    PLUGINS[name] = Plugin(source, (*imported, *new))
    return PLUGINS[name]


def plugins_of(*classes: type[Configuration]) -> list[Plugin]:
    """Return the loaded files because of which these classes are there."""
    return [plugin for plugin in PLUGINS.values() if any(map(plugin.gives, classes))]


def origin_of(cls: type[Configuration]) -> str:
    """Return where a class comes from: the path of a plugin, or the name of a package."""
    return next((str(plugin.source.path) for plugin in plugins_of(cls)), cls.__module__.partition(".")[0])


def _run(source: Source) -> ModuleType:
    spec = spec_from_file_location(source.module, source.path)
    assert spec is not None
    module = sys.modules[source.module] = module_from_spec(spec)
    # The loader's own way would read the file again, and may find bytecode of the one that was there before.
    exec(compile(source.content, source.path, "exec"), vars(module))  # noqa: S102
    return module


def _defined(module: ModuleType) -> list[type[Configuration]]:
    """Return the classes of a module that can be listed."""
    classes = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Configuration)]
    own = [cls for cls in classes if cls.__module__ == module.__name__ and cls.catalogue in CATALOGUES]
    return [cls for cls in own if not isabstract(cls) and hasattr(cls, "name")]


def _listed() -> list[type[Configuration]]:
    return [cls for catalogue in CATALOGUES.values() for cls in catalogue.values()]


def _unlist(module: str) -> None:
    for cls in _listed():
        if cls.__module__ == module:
            CATALOGUES[cls.catalogue].remove(cls)
