"""Promises of everything that is listed, from attacks to analyses, as configurations."""

import ast
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import gifthorse
from gifthorse.analyses import ANALYSES
from gifthorse.attacks import ATTACKS
from gifthorse.attacks.data.badnets import BadNets
from gifthorse.attacks.training.latent import Latent
from gifthorse.bench.cell import RECIPES, resolve
from gifthorse.contracts.configurations import OF_CONFIGURATIONS, OF_METHODS
from gifthorse.core.analysis import Analysis
from gifthorse.core.architecture import Architecture
from gifthorse.core.attack import Attack
from gifthorse.core.configuration import Catalogue, Configuration
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError
from gifthorse.core.recipe import Recipe
from gifthorse.core.stamping import Stamping
from gifthorse.core.task import Dataset
from gifthorse.core.transformation import Transformation
from gifthorse.datasets import DATASETS
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.inspection.deep_inspect import DeepInspect
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.inversion.inspector import Inspector
from gifthorse.models import ARCHITECTURES
from gifthorse.stampings import STAMPS
from gifthorse.training.heads import HEADS, Head
from gifthorse.transformations import TRANSFORMATIONS
from worlds import affordable

CATALOGUES: dict[type[Configuration], Catalogue[Any]] = {
    Attack: ATTACKS,
    Defense: DEFENSES,
    Dataset: DATASETS,
    Architecture: ARCHITECTURES,
    Recipe: RECIPES,
    Head: HEADS,
    Stamping: STAMPS,
    Analysis: ANALYSES,
    Transformation: TRANSFORMATIONS,
}
METHODS: dict[str, type[Configuration]] = {**ATTACKS, **DEFENSES, **ANALYSES}
PUBLISHED: dict[str, type[Configuration]] = {**METHODS, **STAMPS}
LISTED: dict[str, type[Configuration]] = {name: cls for listed in CATALOGUES.values() for name, cls in listed.items()}

every_listed = pytest.mark.parametrize("cls", LISTED.values(), ids=LISTED)
every_method = pytest.mark.parametrize("cls", METHODS.values(), ids=METHODS)


@pytest.mark.parametrize("cls", PUBLISHED.values(), ids=PUBLISHED)
@pytest.mark.parametrize("question", OF_METHODS, ids=lambda question: question.__name__)
def test_a_method_keeps_its_promises(question: Callable[[Configuration], None], cls: type[Configuration]) -> None:
    question(cls())


@every_listed
@pytest.mark.parametrize("question", OF_CONFIGURATIONS, ids=lambda question: question.__name__)
def test_keeps_its_promises(question: Callable[[Configuration], None], cls: type[Configuration]) -> None:
    question(cls())


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


def unlisted(base: type[Configuration], listed: Catalogue[Any]) -> set[str]:
    """The package's classes of a kind that have a name, or that none extends, and that nobody can ask for.

    What has no name in the floor below the methods is a base for others, of other packages too.
    """
    found, open_ = set(), [base]
    while open_:
        cls = open_.pop()
        below = cls.__subclasses__()
        open_ += below
        generic = "[" in cls.__name__
        is_base = below or cls.__module__.startswith(("gifthorse.planting.", "gifthorse.inversion."))
        of_another_kind = cls.catalogue != base.catalogue  # as a defense whose settings are those of a training
        if not cls.__module__.startswith("gifthorse.") or generic or of_another_kind:
            continue
        if hasattr(cls, "name") or not is_base:
            found.add(cls)
    return {cls.__qualname__ for cls in found - set(listed.values())}


@pytest.mark.parametrize("base", CATALOGUES, ids=lambda base: base.__name__)
def test_every_class_of_the_package_that_can_be_run_is_listed(base: type[Configuration]) -> None:
    for module in pkgutil.walk_packages(gifthorse.__path__, "gifthorse."):
        import_module(module.name)
    assert unlisted(base, CATALOGUES[base]) == set(), "list it in the package's __init__.py"


def test_a_class_that_nobody_listed_is_found() -> None:
    class Forgotten(BadNets):
        name = "forgotten"

    class Nameless(Inspector):
        pass

    Forgotten.__module__ = Nameless.__module__ = "gifthorse.attacks.data.forgotten"
    assert {name.rpartition(".")[2] for name in unlisted(Attack, ATTACKS)} == {"Forgotten"}
    assert {name.rpartition(".")[2] for name in unlisted(Defense, DEFENSES)} == {"Nameless"}
    Forgotten.__module__ = Nameless.__module__ = __name__


@every_method
def test_has_a_smoke_setting_that_is_short_enough(cls: type[Configuration]) -> None:
    """One without would make the tests crawl; those that run it fail at it, too, before they start."""
    for request in (cls.name, *cls.variants):
        cell = resolve(**{"dataset": "digits", "profile": "smoke", cls.catalogue: request})  # type: ignore[arg-type]
        affordable(getattr(cell, cls.catalogue))


def test_a_method_without_a_smoke_setting_is_an_error_that_says_where_to_put_it() -> None:
    for method in (
        NeuralCleanse(steps=301),
        BadNets(),
        Latent(epochs=20, pattern_steps=301),
        DeepInspect(batches=10**6),
    ):
        with pytest.raises(AssertionError, match=rf"smoke\.toml, \[all\.{method.catalogue}\.{method.name}\]"):
            affordable(method)
    assert affordable(BadNets(origin="scratch")) == BadNets(origin="scratch")


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
