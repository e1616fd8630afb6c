"""BibTeX of the papers behind what is listed. Imports no torch, and asks no listing where a name is spelled in full."""

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from gifthorse.core.errors import RequestError


def known(kind: str) -> Mapping[str, list[str]]:
    """Return by name the keys of the papers behind what is listed of a kind; none where it is gifthorse's own.

    :class:`RequestError` where nothing of that kind comes from papers of its own.
    """
    names: dict[str, dict[str, list[str]]] = _file()["names"]
    if kind not in names:
        raise RequestError(f"no papers of their own are behind {kind}; there are for {', '.join(names)}")
    return names[kind]


def kinds() -> tuple[str, ...]:
    """Return the kinds that papers are known of."""
    return tuple(_file()["names"])


def entries(keys: Iterable[str]) -> str:
    """Return the BibTeX entries of some papers, each once, by key."""
    return "\n\n".join(_entry(key, _file()["papers"][key]) for key in sorted(set(keys)))


def _entry(key: str, paper: Mapping[str, Any]) -> str:
    fields = {name: value for name, value in paper.items() if name != "type"}
    fields["author"] = " and ".join(paper["author"])
    if "eprint" in paper:
        fields["archiveprefix"] = "arXiv"
    lines = [f"  {name:13} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{paper['type']}{{{key},", *lines, "}"])


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(resources.files("gifthorse").joinpath("references.toml").read_text(encoding="utf-8"))
