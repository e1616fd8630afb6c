"""Configurations: named, frozen, strictly checked records whose constructor is the configuration.

Attacks, defenses, datasets, architectures and training recipes are all configurations, so one object prints,
compares, hashes, and round-trips through JSON and through the bracket string of the command line:

    badnets[poison_rate=0.05,trigger_size=3]
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gifthorse.core.errors import RequestError

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_RESERVED = {"true", "false", "null", "nan", "inf", "infinity"}
_NAME = re.compile(r"[A-Za-z0-9_./-]+")
_REQUEST = re.compile(r"\s*([A-Za-z0-9_./-]+)\s*(?:\[(.*)\])?\s*", re.DOTALL)


class Configuration(BaseModel):
    """A named record of fields; every concrete subclass sets ``name`` and, for a method, ``paper``.

    Values are checked strictly (``"3"`` is no number, ``True`` is no integer, NaN is refused), unknown fields are
    refused, and instances are immutable, hashable and equal by value.

    >>> class Blur(Configuration):
    ...     name = "blur"
    ...     radius: float = 1.0
    >>> str(Blur(radius=2)), Blur.parse("blur[radius=2]") == Blur(radius=2.0)
    ('blur[radius=2.0]', True)
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = ""
    variants: ClassVar[tuple[str, ...]] = ()
    """Bracket strings of variants that differ in kind from the defaults; every promise is tested on them as well."""
    slash_field: ClassVar[str] = ""
    """The field that a name may have after a slash: ``torchvision/resnet50`` for ``torchvision[arch=resnet50]``."""

    def to_dict(self) -> dict[str, Any]:
        """Return every field, JSON-ready, with the name first."""
        return {"name": self.name, **self.model_dump(mode="json")}

    def files(self) -> tuple[Path, ...]:
        """Return the files named by fields whose content, and not only whose name, decides a result."""
        return ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from JSON-like values (lists stand for tuples); :class:`RequestError` names what is wrong."""
        fields = {key: value for key, value in values.items() if key != "name"}
        try:
            return cls.model_validate_json(json.dumps(fields))
        except ValidationError as error:
            raise RequestError(_one_line(cls, error)) from None

    def changed(self, **fields: Any) -> Self:
        """Return a copy with some fields changed, checked like any other request."""
        return self.from_dict({**self.to_dict(), **fields})

    @classmethod
    def parse(cls, text: str) -> Self:
        """Build from a bracket string whose name is this class's own."""
        name, fields = split_request(text)
        return cls.from_dict(cls._with_slash(name, fields))

    def __str__(self) -> str:
        """Return the shortest bracket string that gives this object back."""
        values = self.model_dump(mode="json")
        default = {key: field.get_default() for key, field in type(self).model_fields.items()}
        name = self.name
        if self.slash_field and _NAME.fullmatch(values[self.slash_field]):
            name += "/" + values.pop(self.slash_field)
        changed = [f"{key}={_show(value)}" for key, value in values.items() if getattr(self, key) != default[key]]
        return f"{name}[{','.join(changed)}]" if changed else name

    @classmethod
    def _with_slash(cls, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Add to the fields of a request the one that its name has after a slash."""
        _, _, value = name.partition("/")
        if not (value and cls.slash_field):
            return dict(fields)
        if cls.slash_field in fields:
            raise RequestError(f"'{name}' and '{cls.slash_field}={fields[cls.slash_field]}' say the same thing twice")
        return {cls.slash_field: value, **fields}

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Return what ``gifthorse list --json`` prints: name, aliases, paper, summary and every field."""
        properties = cls.model_json_schema()["properties"] if cls.model_fields else {}
        fields = [
            {
                "name": key,
                "type": _type_name(properties[key]),
                "default": properties[key].get("default"),
                "range": _range(properties[key]),
                "help": field.description or "",
            }
            for key, field in cls.model_fields.items()
        ]
        summary = (cls.__doc__ or "").strip().split("\n")[0]
        return {
            "name": cls.name,
            "aliases": list(cls.aliases),
            "paper": cls.paper,
            "summary": summary,
            "fields": fields,
        }


C = TypeVar("C", bound=Configuration)


class Catalogue(Mapping[str, type[C]], Generic[C]):
    """The listed classes of one kind, by name; aliases are understood, misspellings get a suggestion."""

    def __init__(self, kind: str, listed: Iterable[type[C]]):
        self.kind = kind
        self._classes = {cls.name: cls for cls in listed}
        self._names = {_plain(alias): cls.name for cls in self._classes.values() for alias in (cls.name, *cls.aliases)}

    def __getitem__(self, name: str) -> type[C]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def find(self, name: str) -> type[C]:
        """Return the class of that name or alias; :class:`RequestError` with the nearest name otherwise.

        What follows a slash is left to a class that has a field for it (``torchvision/resnet50``).
        """
        family, slash, _ = name.partition("/")
        key = _plain(family)
        cls = self._classes.get(self._names.get(key, ""))
        if cls is None or (slash and not cls.slash_field):
            raise RequestError(f"no {self.kind} is called '{name}'{_suggest(key, self._classes, 'listed')}")
        return cls

    def build(self, request: str, defaults: Mapping[str, Mapping[str, Any]] | None = None) -> C:
        """Build from a bracket string; ``defaults`` gives, by name, values that the string may override."""
        name, fields = split_request(request)
        cls = self.find(name)
        return cls.from_dict({**(defaults or {}).get(cls.name, {}), **cls._with_slash(name, fields)})


def _plain(name: str) -> str:
    """Return a name as it is compared: case, and hyphen or underscore, do not matter."""
    return name.lower().replace("-", "_")


def split_request(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name[key=value,...]`` into the name and its JSON-like values.

    >>> split_request("badnets[poison_rate=.05,trigger_position=[1,2],mixing=batch]")
    ('badnets', {'poison_rate': 0.05, 'trigger_position': [1, 2], 'mixing': 'batch'})
    """
    match = _REQUEST.fullmatch(text)
    if match is None:
        raise RequestError(f"'{text}' is not of the form name or name[field=value,field=value]")
    fields: dict[str, Any] = {}
    for part in _split_commas(match[2] or "", text):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise RequestError(f"'{part.strip()}' in '{text}' is not of the form field=value")
        if key in fields:
            raise RequestError(f"'{text}' sets '{key}' twice")
        fields[key] = _read_value(value.strip())
    return match[1], fields


def fingerprint(document: Mapping[str, Any]) -> str:
    """Return the content hash (first 24 hex digits of SHA-256) of a JSON document, whatever its key order."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file's content, in hexadecimal; ``None`` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _split_commas(text: str, whole: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes."""
    parts, depth, quoted, escaped, start = [], 0, False, False, 0
    for index, character in enumerate(text):
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
        if depth < 0:
            break
    if depth != 0 or quoted:
        raise RequestError(f"brackets or quotes do not close in '{whole}'")
    parts.append(text[start:])
    return parts if text.strip() else []


def _read_value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: text)
    except (ValueError, RecursionError):
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _show(value: Any) -> str:
    if isinstance(value, str) and _BARE.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return json.dumps(value, separators=(",", ":"))


def _suggest(word: str, known: Iterable[str], label: str) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; {label}: {', '.join(names) or 'none'}"


def _one_line(cls: type[Configuration], error: ValidationError) -> str:
    problems = []
    for issue in error.errors(include_url=False):
        field = str(issue["loc"][0]) if issue["loc"] else ""
        if issue["type"] == "extra_forbidden":
            problems.append(f"unknown field '{field}'{_suggest(field, cls.model_fields, 'fields')}")
        elif field:
            message = issue["msg"].removeprefix("Value error, ")
            problem = f"{field}={json.dumps(issue['input'], default=str)}: {message[0].lower()}{message[1:]}"
            problems.append(problem)
        else:
            problems.append(issue["msg"].removeprefix("Value error, "))
    return f"{cls.name}: {'; '.join(dict.fromkeys(problems))}"


def _type_name(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_type_name(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return f"[{', '.join(_type_name(item) for item in items)}]"
    return str(schema.get("type", "any"))


def _range(schema: Mapping[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    numeric = [schema, *schema.get("anyOf", [])]
    bounds = [f"{sign} {part[key]:g}" for part in numeric for key, sign in signs.items() if key in part]
    return ", ".join(bounds)
