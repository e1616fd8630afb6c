"""The pages of the API, made of docstrings: ``python docs/api.py FOLDER``. Reaches no network; warnings are errors."""

import pkgutil
import re
import sys
import warnings
from importlib import import_module
from inspect import Signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pdoc
import pdoc.render
from pdoc import _pydantic
from pydantic_core import PydanticUndefined

import gifthorse

INSIDE = {"__main__", "bench", "cli", "report"}
"""What nobody builds on; what is public of it is a name of gifthorse itself."""
PARTS = re.compile(r"\n(?=(Paper|Differs): )")


def main(folder: Path) -> None:
    """Write the pages into a folder; ``index.html`` leads to them."""
    warnings.simplefilter("error")
    packages = [each.name for each in pkgutil.iter_modules(gifthorse.__path__) if each.name not in INSIDE]
    shown = ["gifthorse", *(f"gifthorse.{name}" for name in packages)]
    _show_what_is_loaded_late()
    _show_packages(shown[1:])
    _show_paragraphs()
    _show_no_default_of_required_fields()
    pdoc.render.configure(docformat="restructuredtext", show_source=False, footer_text="gifthorse")
    pdoc.pdoc(*shown, output_directory=folder)


def _show_what_is_loaded_late() -> None:
    """Load the names that gifthorse loads when they are first used: only what is there is shown."""
    for name in gifthorse.__all__:
        setattr(gifthorse, name, getattr(gifthorse, name))


def _show_packages(names: list[str]) -> None:
    lines = [f"- `{name}`: {(import_module(name).__doc__ or '').splitlines()[0]}" for name in names]
    gifthorse.__doc__ = "\n".join([gifthorse.__doc__ or "", "## Packages", "", *lines, "", "## Names", ""])


def _show_paragraphs() -> None:
    """Begin a paragraph where a docstring of a method begins with its paper, and with what differs from it."""
    for each in pkgutil.walk_packages(gifthorse.__path__, "gifthorse."):
        if each.name.split(".")[1] not in INSIDE:
            module = import_module(each.name)
            module.__doc__ = PARTS.sub("\n\n", module.__doc__ or "")


def _show_no_default_of_required_fields() -> None:
    find = _pydantic.default_value

    def default_value(parent: type | ModuleType, name: str, obj: Any) -> Any:
        value = find(parent, name, obj)
        return Signature.empty if value is PydanticUndefined else value

    _pydantic.default_value = default_value


if __name__ == "__main__":
    main(Path(sys.argv[1]))
