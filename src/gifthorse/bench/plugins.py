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

from gifthorse.core.configuration import CATALOGUES, Configuration
from gifthorse.core.errors import RequestError, brief


@dataclass(frozen=True)
class Plugin:
    """A file that was run: where it lies, the SHA-256 of what was run, its module's name, what it listed."""

    path: Path
    digest: str
    module: str
    listed: tuple[type[Configuration], ...]

    def gives(self, cls: type[Configuration]) -> bool:
        """Return whether a class, or one that it extends, is there because of this file."""
        return any(base in self.listed or base.__module__ == self.module for base in cls.__mro__)


PLUGINS: dict[str, Plugin] = {}
"""What was loaded, by the name of its module."""


def load_plugin(path: Path | str, digest: str | None = None) -> Plugin:
    """Run a Python file and list its methods; the same file is not run again unless its content changed.

    Every concrete configuration that the file defines is listed, whether or not it says so itself. The module has a
    name that follows from the file's path, so that another process can unpickle its objects once it has loaded the
    same file; with ``digest``, that of the :class:`Plugin` of the first process, it is sure to be the same content.
    :class:`RequestError` where it cannot be read, is another, fails, or lists a name that is taken; nothing of it is
    listed then.
    """
    file = Path(path).resolve()
    if file.suffix != ".py":
        raise RequestError(f"the plugin {path} is no Python file: its name does not end in .py")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RequestError(f"the plugin {path} cannot be read: {error.strerror} ({file})") from None
    found = hashlib.sha256(content).hexdigest()
    if digest not in (None, found):
        raise RequestError(f"the plugin {path} was changed after it had been loaded: start again")
    name = f"gifthorse_plugin_{re.sub(r'[^a-zA-Z0-9]', '_', file.stem)}_{hashlib.sha256(bytes(file)).hexdigest()[:8]}"
    known = PLUGINS.get(name)
    if known is not None and known.digest == found:
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
        module = _run(file, content, name)
        for cls in _defined(module):
            CATALOGUES[cls.catalogue].add(cls)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        _unlist(name)
        raise RequestError(f"the plugin {path} cannot be loaded: {brief(error, file)}") from error
    new = [cls for cls in _listed() if cls not in before]
    PLUGINS[name] = Plugin(file, found, name, (*imported, *new))
    return PLUGINS[name]


def load_plugins(paths: Iterable[Path | str]) -> None:
    """Load files in their order; see :func:`load_plugin`."""
    for path in paths:
        load_plugin(path)


def plugins_of(*classes: type[Configuration]) -> list[Plugin]:
    """Return the loaded files because of which these classes are there."""
    return [plugin for plugin in PLUGINS.values() if any(map(plugin.gives, classes))]


def origin_of(cls: type[Configuration]) -> str:
    """Return where a class comes from: the path of a plugin, or the name of a package."""
    return next((str(plugin.path) for plugin in plugins_of(cls)), cls.__module__.partition(".")[0])


def _run(file: Path, content: bytes, name: str) -> ModuleType:
    spec = spec_from_file_location(name, file)
    assert spec is not None
    module = sys.modules[name] = module_from_spec(spec)
    # The loader's own way would read the file again, and may find bytecode of the one that was there before.
    exec(compile(content, file, "exec"), vars(module))  # noqa: S102
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
