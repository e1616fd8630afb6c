"""How large the inspectors' indices are in our own benign and trojaned models: what a scan compares a model with."""

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from gifthorse.core.configuration import fingerprint
from gifthorse.core.scan import Calibration

FALSE_ALARMS = 0.05
"""The share of our benign models that a threshold may be exceeded by."""


def calibrations(defense: Mapping[str, Any]) -> tuple[str | None, tuple[Calibration, ...]]:
    """Return the metric that tells models apart best for an inspector, and its values in our populations.

    ``defense`` holds every field, JSON-ready. Populations of the same inspector with other settings are taken, and
    marked so, where there are none with these; without any the metric is ``None``.
    """
    same = [each for each in _inspectors() if each["defense"] == defense["name"]]
    exact = [each for each in same if all(defense.get(name) == value for name, value in each["settings"].items())]
    if not same:
        return None, ()
    (nearest, *_) = exact or same
    found = (Calibration(**each, exact=bool(exact)) for each in nearest["populations"])
    return nearest["index"], tuple(found)


def threshold(found: tuple[Calibration, ...]) -> float | None:
    """Return the smallest index that at most :data:`FALSE_ALARMS` of all benign models exceed; ``None`` without any."""
    benign = sorted((value for each in found for value in each.benign), reverse=True)
    return benign[math.floor(FALSE_ALARMS * len(benign))] if benign else None


def known() -> str:
    """Return a digest of all that is known of our populations."""
    return fingerprint({"inspectors": _inspectors()})


@cache
def _inspectors() -> list[dict[str, Any]]:
    text = resources.files("gifthorse").joinpath("bench/calibration.toml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = tomllib.loads(text)["inspector"]
    return found
