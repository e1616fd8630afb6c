"""Configurations: named, frozen, strictly checked records whose constructor is the configuration.

Attacks, defenses, datasets, architectures and training recipes are all configurations, so one object prints,
compares, hashes, and round-trips through JSON and through the bracket string of the command line:

    badnets[poison_rate=0.05,trigger_size=3]

A field may hold another configuration, or a tuple of them: it is annotated with the base class of a kind (``Attack``,
``Defense[Any]``) or with one class, and takes an object, a bracket string, or a dictionary with a name.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from inspect import isabstract
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from gifthorse.core.errors import RequestError, brief, suggestion

_GROUP = "gifthorse"
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_RESERVED = {"true", "false", "null", "nan", "inf", "infinity"}
_DEEPEST = 32
_SETTLED = 2_000_000_000
"""Age in nanoseconds from which a file's times of change tell it from what it was: file systems count coarsely."""
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

    catalogue: ClassVar[str] = ""
    """The kind of the catalogue that lists it (``attack``, ``defense``), said once by the base class."""
    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = ""
    slash_field: ClassVar[str] = ""
    """The field that a name may have after a slash: ``torchvision/resnet50`` for ``torchvision[arch=resnet50]``."""
    variants: ClassVar[tuple[str, ...]] = ()
    """Bracket strings of settings that differ from the defaults in kind, not in degree: what tests run over as well."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler, /) -> CoreSchema:
        """Check the class's own fields where it is built, and what a field of this type is given where it is one."""
        if not cls.__pydantic_complete__:
            return handler(source)
        if not (cls.catalogue or hasattr(cls, "name")):
            raise TypeError(f"a field cannot be any {cls.__name__}: annotate it with a kind (Attack) or a named class")
        serialization = core_schema.plain_serializer_function_ser_schema(Configuration.to_dict)
        return core_schema.no_info_plain_validator_function(cls._read, serialization=serialization)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> dict[str, Any]:
        """Name the kind where this class is the type of a field."""
        return {"type": cls._called()} if schema["type"] == "function-plain" else handler(schema)

    @classmethod
    def _called(cls) -> str:
        """Return the name, or the kind of a base class."""
        return getattr(cls, "name", cls.catalogue)

    @classmethod
    def _read(cls, value: Any) -> "Configuration":
        """Read the value of a field of this type."""
        wanted = cast(type[Configuration], cls.__pydantic_generic_metadata__["origin"] or cls)
        if isinstance(value, wanted):
            return value
        if not isinstance(value, str) and not (isinstance(value, Mapping) and isinstance(value.get("name"), str)):
            raise PydanticCustomError(
                "configuration", "should be of the kind {kind}, as name or name[field=value]", {"kind": cls._called()}
            )
        try:
            catalogue = CATALOGUES.get(cls.catalogue) if cls.catalogue else Catalogue("", [cls])
            if catalogue is None:
                raise RequestError(f"nothing of the kind '{cls.catalogue}' is listed yet: import its package first")
            found: Configuration = catalogue.build(value)
            if not isinstance(found, wanted):
                raise RequestError(f"'{found.name}' is no {wanted.__name__}, which is needed here: {wanted.summary()}")
        except RequestError as error:
            raise PydanticCustomError("request", "{problem}", {"problem": str(error)}) from None
        return found

    def walk(self) -> Iterator["Configuration"]:
        """Yield this configuration and every one that its fields hold, outer before inner."""
        yield self
        for key in type(self).model_fields:
            for inner in _held(getattr(self, key)):
                yield from inner.walk()

    def to_dict(self) -> dict[str, Any]:
        """Return every field, JSON-ready, with the name first."""
        return {"name": self.name, **self.model_dump(mode="json")}

    def files(self) -> tuple[Path, ...]:
        """Return the files, and folders of images, named by fields whose content, not only whose name, decides."""
        return ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from JSON-like values (lists stand for tuples); :class:`RequestError` names what is wrong."""
        fields = {key: value for key, value in values.items() if key != "name"}
        try:
            return cls.model_validate_json(json.dumps(fields, default=Configuration.to_dict))
        except ValidationError as error:
            raise RequestError(_one_line(cls, error)) from None

    def changed(self, **fields: Any) -> Self:
        """Return a copy with some fields changed, checked like any other request."""
        return self.from_dict({**self.to_dict(), **fields})

    @classmethod
    def parse(cls, text: str) -> Self:
        """Build from a bracket string whose name is this class's own."""
        name, fields = split_request(text)
        if plain(name.partition("/")[0]) not in map(plain, (cls.name, *cls.aliases)):
            raise RequestError(f"'{name}' is not {cls.name}")
        return cls.from_dict(cls._with_slash(name, fields))

    def __str__(self) -> str:
        """Return the shortest bracket string that gives this object back."""
        values = {key: getattr(self, key) for key in type(self).model_fields}
        default = {key: field.get_default() for key, field in type(self).model_fields.items()}
        name = self.name
        if self.slash_field and _NAME.fullmatch(values[self.slash_field]):
            name += "/" + values.pop(self.slash_field)
        changed = [f"{key}={_show(value)}" for key, value in values.items() if value != default[key]]
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
    def summary(cls) -> str:
        """Return the first line of the class's documentation."""
        return (cls.__doc__ or "").strip().split("\n")[0]

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Return what ``gifthorse list --json`` prints: name, aliases, paper, summary and every field."""
        properties = cls.model_json_schema()["properties"] if cls.model_fields else {}
        fields = [
            {
                "name": key,
                "type": _type_name(properties[key]),
                "default": _request(field.default) if _held(field.default) else properties[key].get("default"),
                "range": _range(properties[key]),
                "help": field.description or "",
            }
            for key, field in cls.model_fields.items()
        ]
        return {
            "name": cls.name,
            "aliases": list(cls.aliases),
            "paper": cls.paper,
            "summary": cls.summary(),
            "fields": fields,
        }


C = TypeVar("C", bound=Configuration)
D = TypeVar("D", bound=Configuration)


class Catalogue(Mapping[str, type[C]], Generic[C]):
    """The listed classes of one kind, by name; aliases are understood, misspellings get a suggestion.

    ``presets`` are whole requests by a name of their own, which stands for them wherever a request is read: if ``dhbe``
    is ``standard[lr=0.1,schedule=[100,150]]``, then ``dhbe[lr=0.2]`` is that with another rate.

    Other packages declare theirs as entry points: a class in the group of its kind (``gifthorse.attacks``), or in the
    group ``gifthorse`` a module or a function that lists what it likes with :meth:`add`. Either is loaded when
    something is first looked up.
    """

    _entries: ClassVar[list[metadata.EntryPoint] | None] = None
    """What packages declare and was not loaded yet; ``None`` before anybody asked."""

    def __init__(self, kind: str, listed: Iterable[type[C]], presets: Mapping[str, str] = MappingProxyType({})):
        self.kind = kind
        self.presets = presets
        self._classes: dict[str, type[C]] = {}
        self._names: dict[str, str] = {}
        for cls in listed:
            self.add(cls)
        if kind:
            CATALOGUES.setdefault(kind, self)

    def add(self, cls: type[D]) -> type[D]:
        """List a class and return it, so that this is a decorator as well.

        One that is listed already stays so. :class:`TypeError` where it is not of this kind, is abstract or has no
        name; :class:`ValueError` where its name or an alias is taken or cannot stand in a bracket string.
        """
        if not (isinstance(cls, type) and issubclass(cls, Configuration) and cls.catalogue == self.kind):
            raise TypeError(f"{cls!r} cannot be listed: it is no {self.kind}")
        if isabstract(cls) or not hasattr(cls, "name"):
            missing = ", ".join(sorted(cls.__abstractmethods__)) or "name"
            raise TypeError(f"{cls.__name__} cannot be listed: it does not define {missing}")
        if self._classes.get(cls.name) is cls:
            return cls
        names = dict.fromkeys((cls.name, *cls.aliases))
        for name in names:
            taken = self._names.get(plain(name))
            owner = self.presets.get(plain(name)) if taken is None else self._classes[taken].__qualname__
            if owner is not None:
                raise ValueError(f"{cls.__name__} cannot be listed: '{name}' is the {self.kind} {owner}")
        if not _BARE.fullmatch(cls.name) or "/" in cls.name or cls.name.lower() in _RESERVED:
            raise ValueError(f"{cls.__name__} cannot be listed: its name '{cls.name}' is not a plain word")
        self._classes[cls.name] = cls  # type: ignore[assignment]
        self._names |= {plain(name): cls.name for name in names}
        return cls

    def remove(self, cls: type[Configuration]) -> None:
        """Take a class off the list."""
        del self._classes[cls.name]
        self._names = {spelling: name for spelling, name in self._names.items() if name != cls.name}

    def __getitem__(self, name: str) -> type[C]:
        return self._listed()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed())

    def __len__(self) -> int:
        return len(self._listed())

    def find(self, name: str) -> type[C]:
        """Return the class of that name or alias; :class:`RequestError` with the nearest name otherwise.

        What follows a slash is left to a class that has a field for it (``torchvision/resnet50``).
        """
        classes = self._listed()
        family, slash, _ = name.partition("/")
        key = plain(family)
        cls = classes.get(self._names.get(key, ""))
        if cls is None or (slash and not cls.slash_field):
            raise RequestError(
                f"no {self.kind or 'configuration'} is called '{name}'"
                f"{suggestion(key, [*classes, *self.presets], 'listed')}"
            )
        return cls

    def build(self, request: str | Mapping[str, Any]) -> C:
        """Build from a bracket string, or a dictionary with a name.

        What it leaves open, outside and in the configurations that it holds, :func:`request_defaults` fill in.
        """
        name, said = split_request(request) if isinstance(request, str) else (request["name"], request)
        if (preset := self.presets.get(plain(name))) is not None:
            name, whole = split_request(preset)
            said = {**whole, **said}
        cls = self.find(name)
        held = {key: field.default for key, field in cls.model_fields.items() if _held(field.default)}
        fields = {key: _request(value) for key, value in held.items()}
        fields |= _DEFAULTS.get().get(self.kind, {}).get(cls.name, {})
        return cls.from_dict({**fields, **cls._with_slash(name, said)})

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return by name what ``gifthorse list --json`` prints of every class, and of every preset with its values."""
        described = {name: cls.describe() for name, cls in self.items()}
        for name, request in self.presets.items():
            built = self.build(request)
            about, values = built.describe(), built.to_dict()
            fields = [{**field, "default": values[field["name"]]} for field in about["fields"]]
            described[name] = {**about, "name": name, "aliases": [], "summary": request, "fields": fields}
        return described

    @property
    def group(self) -> str:
        """The group of entry points that classes of this kind are declared in: ``gifthorse.attacks``."""
        return f"{_GROUP}.{self.kind.rpartition(' ')[2]}s"

    def _listed(self) -> dict[str, type[C]]:
        _load(_GROUP, _call)
        _load(self.group, self.add)
        return self._classes

    @classmethod
    def load_packages(cls) -> None:
        """Import all that installed packages add: what they declare beside methods is known then.

        :class:`RequestError` names what cannot be loaded.
        """
        _load(_GROUP, _call)
        for entry in Catalogue._entries or []:
            _loaded(entry, lambda _: None)


def entry_points() -> list[metadata.EntryPoint]:
    """Return all that installed packages declare for gifthorse."""
    found = metadata.entry_points()
    groups = sorted(group for group in found.groups if group.partition(".")[0] == _GROUP)
    return [entry for group in groups for entry in found.select(group=group)]


def _load(group: str, use: Callable[[Any], object]) -> None:
    """Load what is left of a group, once, and hand it on."""
    if Catalogue._entries is None:
        Catalogue._entries = entry_points()
    while entry := next((each for each in Catalogue._entries if each.group == group), None):
        # Taken off first: what is loaded may look something up itself.
        Catalogue._entries.remove(entry)
        try:
            _loaded(entry, use)
        except RequestError:
            Catalogue._entries.append(entry)
            raise


def _loaded(entry: metadata.EntryPoint, use: Callable[[Any], object]) -> None:
    try:
        use(entry.load())
    except Exception as error:
        package = entry.dist.name if entry.dist else entry.value
        declared = f"{entry.name} = {entry.value}, in {entry.group}"
        reason = brief(error, *package_places(root_of(entry)))
        raise RequestError(f"the package {package} cannot add its methods ({declared}): {reason}") from error


def _call(found: Any) -> None:
    if callable(found):
        found()


def root_of(entry: metadata.EntryPoint) -> str:
    """Return the name of the package, or module, at the root of what an entry point names."""
    return entry.value.partition(":")[0].partition(".")[0].strip()


def package_places(name: str) -> list[Path]:
    """Return the folders of a package, or the file of a module; none where it is not in files or cannot be found."""
    spec = None
    with suppress(ImportError, ValueError):
        spec = find_spec(name)
    return [] if spec is None else [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""]]


CATALOGUES: dict[str, Catalogue[Any]] = {}
"""Every catalogue by its kind, from when its package is imported."""

_DEFAULTS: ContextVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = ContextVar(
    "_DEFAULTS", default=MappingProxyType({})
)


@contextmanager
def request_defaults(fields: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[None]:
    """Fill in, inside this block, what requests leave open: fields by kind and by name."""
    token = _DEFAULTS.set(fields)
    try:
        yield
    finally:
        _DEFAULTS.reset(token)


def _held(value: Any) -> list[Configuration]:
    """Return the configurations that a field's value is, or holds in tuples."""
    if isinstance(value, tuple):
        return [inner for part in value for inner in _held(part)]
    return [value] if isinstance(value, Configuration) else []


def _request(value: Any) -> Any:
    """Return a field's value as a request says it: with a bracket string for every configuration."""
    if isinstance(value, tuple):
        return [_request(part) for part in value]
    return str(value) if isinstance(value, Configuration) else value


def plain(name: str) -> str:
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
    for part in split_commas(match[2] or "", text):
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
    """Return the SHA-256 of a file's content, in hexadecimal; ``None`` where it cannot be read.

    A process reads a file again only where its size or times of change are others than before, or are so young that a
    further change might not show in them.
    """
    try:
        about = path.stat()
        times = about.st_mtime_ns, about.st_ctime_ns
        if time.time_ns() - max(times) < _SETTLED:
            return _digest.__wrapped__(path)
        return _digest(path, about.st_dev, about.st_ino, about.st_size, *times)
    except OSError:
        return None


@lru_cache(maxsize=65536)
def _digest(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_commas(text: str, whole: str | None = None) -> list[str]:
    """Split at the commas that stand outside brackets and quotes; errors quote the ``whole`` that it is of.

    >>> split_commas("nsr,tsne[images=9,perplexity=3]")
    ['nsr', 'tsne[images=9,perplexity=3]']
    """
    whole = text if whole is None else whole
    parts, depth, quoted, escaped, start = [], 0, False, False, 0
    for index, character in enumerate(text):
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
            if depth > _DEEPEST:
                raise RequestError(f"brackets are nested more than {_DEEPEST} deep in '{whole[:40]}…'")
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
        if not (text.startswith("[") and text.endswith("]")):
            return text
        return [_read_value(part.strip()) for part in split_commas(text[1:-1], text)]
    return number if math.isfinite(number) else text


def _show(value: Any) -> str:
    if isinstance(value, str) and _BARE.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    if _held(value):
        return str(value) if isinstance(value, Configuration) else f"[{','.join(map(_show, value))}]"
    return json.dumps(value, separators=(",", ":"))


def _one_line(cls: type[Configuration], error: ValidationError) -> str:
    problems = []
    for issue in error.errors(include_url=False):
        field = str(issue["loc"][0]) if issue["loc"] else ""
        if issue["type"] == "extra_forbidden":
            others: Mapping[str, Any] = CATALOGUES.get(cls.catalogue, {})
            able = sorted(name for name, other in others.items() if field in other.model_fields)
            if able:
                problems.append(f"unknown field '{field}', which these have: {', '.join(able)}")
            else:
                problems.append(f"unknown field '{field}'{suggestion(field, cls.model_fields, 'fields')}")
        elif issue["type"] == "request":
            path = field + "".join(f"[{place}]" for place in issue["loc"][1:] if isinstance(place, int))
            problems.append(f"{path}: {issue['msg']}")
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
