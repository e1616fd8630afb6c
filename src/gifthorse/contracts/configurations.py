"""Promises of everything that is asked for by name, as a configuration."""

import json
import sys
import tomllib
from typing import Any

from gifthorse.contracts.promise import Promise, asked, require
from gifthorse.contracts.worlds import LONGEST, cut_short
from gifthorse.core.configuration import Configuration
from gifthorse.core.errors import RequestError

SCHEDULE = "schedule[epochs=3,lr=0.1]"


def configuration_promises(method: Configuration) -> list[Promise]:
    """Return what is promised of a method by its text alone; nothing is run."""
    return asked(method, method, (*OF_METHODS, *OF_CONFIGURATIONS))


def others(original: Configuration) -> list[Configuration]:
    """Return an instance for each field that has another legal value among some, with that value."""
    tries: list[Any] = [7, 0.37, 3, 1, "scratch", "dataset", "resnet34", "imc", "strip", ("strip",), SCHEDULE]
    return [other for name in type(original).model_fields if (other := _with_another(original, name, tries))]


def _with_another(original: Configuration, field: str, tries: list[Any]) -> Configuration | None:
    for value in tries:
        try:
            other = original.changed(**{field: value})
        except RequestError:
            continue
        if getattr(other, field) != getattr(original, field):
            return other
    return None


def cites_its_paper_and_says_what_differs(method: Configuration) -> None:
    """Its module says "Paper:" and "Differs:", its class what it does."""
    text = sys.modules[type(method).__module__].__doc__ or ""
    for word in ("Paper", "Differs"):
        require(f"\n{word}: " in text, f"the docstring of its module has no line that begins with '{word}: '")
    require(bool(method.paper), "the class has no paper; write 'none; …' where there is none")
    require(bool(vars(type(method)).get("__doc__")), "the class has no docstring")


def every_field_is_explained(method: Configuration) -> None:
    """Every field has a description."""
    bare = [name for name, field in type(method).model_fields.items() if not field.description]
    require(not bare, f"no description: {', '.join(bare)}")


def can_be_cut_short(method: Configuration) -> None:
    """Its fields let its long loops be cut short, so that tests run it in seconds."""
    most = ", ".join(f"{bound} {word}" for word, bound in LONGEST.items())
    try:
        cut_short(method)
    except RequestError as error:
        require(False, f"it refuses to be as short as tests need (at most {most}): {error}")


def equal_fields_are_equal_objects(method: Configuration) -> None:
    """Two objects with the same fields are equal, and with others they are not."""
    same = type(method).from_dict(method.to_dict())
    require(same == method and hash(same) == hash(method), "a copy with the same fields is another object")
    require(all(other != method for other in others(method)), "a copy with another field is the same object")


def round_trips_through_json_toml_and_brackets(method: Configuration) -> None:
    """JSON, TOML and the bracket string give the same object back."""
    cls = type(method)
    for original in (method, *others(method), *map(cls.parse, cls.variants)):
        lines = [f"{key} = {_toml(value)}" for key, value in original.to_dict().items() if value is not None]
        ways = {
            "JSON": cls.from_dict(json.loads(json.dumps(original.to_dict()))),
            "TOML": cls.from_dict(tomllib.loads("\n".join(lines))),
            "the bracket string": cls.parse(str(original)),
        }
        for way, found in ways.items():
            require(vars(found) == vars(original), f"{way} of {original} gives {found}")


def declared_variants_are_requests_of_the_class_that_differ(method: Configuration) -> None:
    """Its variants are settings of it that differ from each other and from its defaults."""
    variants = [type(method).parse(text) for text in method.variants]
    require(len(set(variants)) == len(variants), "two of its variants are the same")
    plain = not any(field.is_required() for field in type(method).model_fields.values())
    require(not (plain and type(method)() in variants), "a variant is what it is by default")
    require(all(type(each) is type(method) for each in variants), "a variant is of another class")


OF_CONFIGURATIONS = (
    equal_fields_are_equal_objects,
    round_trips_through_json_toml_and_brackets,
    declared_variants_are_requests_of_the_class_that_differ,
)
OF_METHODS = (cites_its_paper_and_says_what_differs, every_field_is_explained, can_be_cut_short)


def _toml(value: Any) -> str:
    """Return a value as TOML has it: dictionaries as inline tables, and nothing for what is null."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items() if inner is not None) + "}"
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else json.dumps(value)
