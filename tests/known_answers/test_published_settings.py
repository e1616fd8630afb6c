"""Every default is what its source prints, in the classes and in the paper profile, or differs for a stated reason."""

import tomllib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from gifthorse.analyses import ANALYSES
from gifthorse.attacks import ATTACKS
from gifthorse.bench.cell import RECIPES, Downstream, resolve
from gifthorse.core.configuration import Catalogue, Configuration, split_request
from gifthorse.datasets import DATASETS
from gifthorse.defenses import DEFENSES
from gifthorse.stampings import STAMPS
from gifthorse.training.heads import HEADS

TABLE = tomllib.loads(Path(__file__).with_name("published_settings.toml").read_text())
ROWS: list[dict[str, Any]] = TABLE["settings"]
EVERY: dict[str, Catalogue[Any]] = {"every attack": ATTACKS, "every recipe": RECIPES, "every head": HEADS}
ROLES: dict[str, Catalogue[Any]] = {
    "attack": ATTACKS,
    "defense": DEFENSES,
    "training": RECIPES,
    "downstream": HEADS,
    "stamp": STAMPS,
    "analysis": ANALYSES,
}
METHODS: dict[str, type[Configuration]] = {**ATTACKS, **DEFENSES, **RECIPES, **HEADS, **STAMPS, **ANALYSES}
# A preset that is called like a method goes by its kind and its name.
PRESETS = {
    f"training {name}" if name in METHODS else name: request
    for name, request in {**RECIPES.presets, **DEFENSES.presets, **ATTACKS.presets}.items()
}
IMAGES = [name for name in DATASETS if name != "folder"]  # which cannot be without a path
PLACES = {"dataset", "model", "profile"}


def names(row: dict[str, Any]) -> list[str]:
    """The method that a row names, or the methods and presets."""
    return row["method"] if isinstance(row["method"], list) else [row["method"]]


def label(row: dict[str, Any]) -> str:
    place = row.get("dataset") or row.get("model") or row.get("profile")
    return f"{', '.join(names(row))}.{row['field']}" + (f" ({place})" if place else "")


def read(value: Any) -> Any:
    """A value as the table writes it: fractions, no value, lists for tuples."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and value.replace("/", "", 1).isdigit():
        return float(Fraction(value))
    return None if value == "null" else value


def held(value: Any) -> Any:
    """A field's value, its configurations by their names: their settings have rows of their own."""
    if isinstance(value, tuple) and any(isinstance(each, Configuration) for each in value):
        return tuple(each.name for each in value)
    return value


def meant(row: dict[str, Any]) -> list[str]:
    """The names of the methods that a row is about; of every method those without a row of their own."""
    if names(row)[0] not in EVERY:
        return names(row)
    own = {name for each in ROWS if each["field"] == row["field"] and not PLACES & each.keys() for name in names(each)}
    return [name for name, cls in EVERY[row["method"]].items() if row["field"] in cls.model_fields and name not in own]


def in_paper_profile(row: dict[str, Any], name: str) -> Iterator[Configuration]:
    """The method as the paper profile has it, on every data set or the one that the row names."""
    kind, _, called = name.rpartition(" ")
    role = kind or next(role for role, listed in ROLES.items() if name in listed or name in listed.presets)
    own = {each.get("dataset") for each in ROWS if each["field"] == row["field"] and name in names(each)}
    everywhere = [each for each in IMAGES if each not in own] if role != "training" else ["cifar10"]
    for dataset in [row["dataset"]] if "dataset" in row else everywhere:
        request: dict[str, Any] = {"dataset": dataset, "model": row.get("model"), role: called, "profile": "paper"}
        found = getattr(resolve(**request), role)
        yield found.head if isinstance(found, Downstream) else found


@pytest.mark.parametrize("row", ROWS, ids=label)
def test_a_default_is_what_its_source_prints(row: dict[str, Any]) -> None:
    expected = read(row.get("here", row["value"]))
    found = [each for name in meant(row) for each in in_paper_profile(row, name)]
    if not PLACES & row.keys():
        found += [METHODS[name].model_construct() for name in meant(row) if name in METHODS]
    assert found
    for each in found:
        assert held(getattr(each, row["field"])) == expected, f"{each} is not {row['paper']}, {row['where']}"


def test_every_row_names_its_source_and_every_departure_its_reason() -> None:
    for row in ROWS:
        assert all((row["paper"], row["where"])), label(row)
        assert ("here" in row) == bool(row.get("why")), label(row)
        assert "here" not in row or read(row["here"]) != read(row["value"]), f"{label(row)} is no departure"
    labels = [label(row) for row in ROWS]
    assert len(labels) == len(set(labels))


def test_every_listed_method_has_a_row_of_its_own_or_a_reason_to_have_none() -> None:
    """A new method brings its rows."""
    with_rows, excused = {name for row in ROWS for name in names(row)}, set(TABLE["without"])
    assert {*METHODS, *PRESETS} == (with_rows - set(EVERY)) | excused
    assert all(TABLE["without"].values())
    assert not with_rows & excused


@pytest.mark.parametrize("name", PRESETS)
def test_whatever_a_preset_says_has_its_source(name: str) -> None:
    assert set(split_request(PRESETS[name])[1]) == {row["field"] for row in ROWS if name in names(row)}


@pytest.mark.parametrize("name", METHODS)
def test_a_number_that_no_source_prints_is_listed_as_ours(name: str) -> None:
    """A new field brings its row, or its line under [ours]."""
    fields = {field: getattr(METHODS[name].model_construct(), field) for field in METHODS[name].model_fields}
    numbers = {field: value for field, value in fields.items() if type(value) in (int, float)}
    published = {row["field"] for row in ROWS if name in meant(row) and not PLACES & row.keys()}
    assert {field: value for field, value in numbers.items() if field not in published} == TABLE["ours"].get(name, {})
