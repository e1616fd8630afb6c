"""Profiles: how much of the papers' budgets a run spends, as data. Imports no torch."""

import tomllib
from copy import deepcopy
from functools import cache
from importlib import resources
from typing import Any

from gifthorse.core.errors import RequestError

PROFILES = {
    "paper": "the papers' own budgets",
    "laptop": "a cell in about a minute on two CPU cores",
    "smoke": "seconds, to see that everything works",
}


def read_profile(name: str) -> dict[str, Any]:
    """Return a profile: by scope, by kind, by name, the fields that differ from the paper's.

    A scope is ``all``, a data set, or for training an architecture; a later one of these overrides. The paper profile's
    ``presets`` are no scope: whole requests, by kind and by a name of their own.
    """
    if name not in PROFILES:
        raise RequestError(f"no profile is called '{name}'; listed: {', '.join(PROFILES)}")
    return deepcopy(_parsed(name))


@cache
def _parsed(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("gifthorse").joinpath(f"profiles/{name}.toml").read_text())
