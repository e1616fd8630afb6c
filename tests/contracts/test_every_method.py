"""Promises of every listed attack, defense, data set, architecture and recipe, as configurations."""

import ast
import json
import pkgutil
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import gifthorse.attacks
import gifthorse.defenses
from gifthorse.attacks import ATTACKS
from gifthorse.bench.cell import RECIPES
from gifthorse.core.attack import Attack
from gifthorse.core.configuration import Configuration
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError
from gifthorse.datasets import DATASETS
from gifthorse.defenses import DEFENSES
from gifthorse.models import ARCHITECTURES

METHODS: dict[str, type[Configuration]] = {**ATTACKS, **DEFENSES}
LISTED: dict[str, type[Configuration]] = {**METHODS, **DATASETS, **ARCHITECTURES, **RECIPES}

every_listed = pytest.mark.parametrize("cls", LISTED.values(), ids=LISTED)
every_method = pytest.mark.parametrize("cls", METHODS.values(), ids=METHODS)


def changed(cls: type[Configuration]) -> Configuration:
    """An instance that differs from the default in the first field that has another legal value."""
    tries: list[Any] = [7, 0.37, 3, 1, "scratch", "dataset", "resnet34", "imc", "strip", ("strip",)]
    for name in cls.model_fields:
        for value in tries:
            try:
                other = cls(**{name: value})
            except ValueError:
                continue
            if other != cls():
                return other
    return cls()


def toml(value: Any) -> str:
    """A value as TOML has it: dictionaries as inline tables, and nothing for what is null."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items() if inner is not None) + "}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


@every_method
def test_cites_its_paper_and_says_what_differs(cls: type[Configuration]) -> None:
    module = import_module(cls.__module__)
    assert module.__doc__ is not None
    assert "\nPaper: " in module.__doc__
    assert "\nDiffers: " in module.__doc__
    assert cls.paper
    assert cls.__doc__


@every_method
def test_every_field_is_explained(cls: type[Configuration]) -> None:
    assert [name for name, field in cls.model_fields.items() if not field.description] == []


@every_listed
def test_equal_fields_are_equal_objects(cls: type[Configuration]) -> None:
    assert cls() == cls()
    assert hash(cls()) == hash(cls())
    if cls.model_fields:
        assert changed(cls) != cls()


@every_listed
@pytest.mark.parametrize("other", [False, True], ids=["default", "changed"])
def test_round_trips_through_json_toml_and_brackets(cls: type[Configuration], other: bool) -> None:
    original = changed(cls) if other else cls()
    assert cls.from_dict(json.loads(json.dumps(original.to_dict()))) == original
    assert cls.parse(str(original)) == original
    lines = [f"{key} = {toml(value)}" for key, value in original.to_dict().items() if value is not None]
    assert cls.from_dict(tomllib.loads("\n".join(lines))) == original


@every_listed
def test_declared_variants_are_requests_of_the_class_that_differ(cls: type[Configuration]) -> None:
    variants = [cls.parse(text) for text in cls.variants]
    assert len({cls(), *variants}) == 1 + len(cls.variants)
    assert all(type(variant) is cls for variant in variants)


@every_listed
def test_rejects_an_unknown_field_by_name(cls: type[Configuration]) -> None:
    with pytest.raises(RequestError, match="no_such_field"):
        cls.from_dict({"no_such_field": 1})


@every_listed
def test_rejects_a_value_of_the_wrong_type_naming_the_field(cls: type[Configuration]) -> None:
    for name in cls.model_fields:
        with pytest.raises(RequestError, match=name):
            cls.from_dict({name: {"not": "a value"}})


@every_listed
def test_rejects_values_out_of_range(cls: type[Configuration]) -> None:
    for field in cls.describe()["fields"]:
        if field["range"] and field["type"] in ("integer", "number"):
            bad = -1 if field["type"] == "integer" else -0.5
            with pytest.raises(RequestError, match=field["name"]):
                cls.from_dict({field["name"]: bad})


@every_listed
def test_cannot_be_changed(cls: type[Configuration]) -> None:
    for name in cls.model_fields:
        with pytest.raises(ValueError, match="frozen"):
            setattr(cls(), name, 1)


@pytest.mark.parametrize(
    ("package", "base", "listed"),
    [(gifthorse.attacks, Attack, ATTACKS), (gifthorse.defenses, Defense, DEFENSES)],
    ids=["attacks", "defenses"],
)
def test_every_method_file_is_listed(package: Any, base: type[Configuration], listed: dict[str, Any]) -> None:
    found = set()
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        members = vars(import_module(module.name)).values()
        local = [c for c in members if isinstance(c, type) and c.__module__ == module.name]
        found |= {c for c in local if issubclass(c, base) and "name" in vars(c) and "[" not in c.__name__}
    assert found == set(listed.values())


@every_method
def test_holds_the_algorithm_and_nothing_else(cls: type[Configuration]) -> None:
    """No method prints, parses, saves, plots, reads files or picks a device."""
    source = Path(str(import_module(cls.__module__).__file__)).read_text()
    tree = ast.parse(source)
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"print", "open", "input", "exec", "eval"}
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not imported & {"argparse", "click", "matplotlib", "pathlib", "os", "pickle", "tempfile", "rich"}
    touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not touched & {"cuda", "is_available", "save", "load", "manual_seed", "set_num_threads"}
