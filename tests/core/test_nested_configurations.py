"""Configurations inside configurations: they parse, print, compare and are kept as any other value, or are refused."""

import copy
import json
import pickle
import sys
import tomllib
from abc import abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from gifthorse.core.command import bracket
from gifthorse.core.configuration import Catalogue, Configuration, fingerprint, request_defaults
from gifthorse.core.errors import RequestError

V = TypeVar("V")


class Toy(Configuration, Generic[V]):
    catalogue = "toy"


class Stackable(Toy[int]):
    pass


class Leaf(Stackable):
    name = "leaf"
    aliases = ("end-point",)
    size: int = Field(3, ge=1)
    text: str = ""
    ratio: float | None = None
    file: str | None = None

    def files(self) -> tuple[Path, ...]:
        return () if self.file is None else (Path(self.file),)


class Plain(Configuration):
    name = "plain"
    steps: int = 5


class Pair(Toy[str]):
    name = "pair"
    base: Toy[Any] = Leaf(size=4)
    parts: tuple[Toy[Any], ...] = ()
    extra: Leaf | None = None
    stacked: Stackable = Leaf()
    plain: Plain = Plain()


TOYS: Catalogue[Toy[Any]] = Catalogue("toy", [Leaf, Pair])

leaves = st.builds(
    Leaf,
    size=st.integers(1, 9),
    text=st.text(max_size=6) | st.text(alphabet='a[]{}=,"\\ ', max_size=6),
    ratio=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
toys = st.recursive(
    leaves,
    lambda inner: st.builds(
        Pair,
        base=inner,
        parts=st.lists(inner, max_size=3).map(tuple),
        extra=st.none() | leaves,
        plain=st.builds(Plain, steps=st.integers()),
    ),
    max_leaves=6,
)


@given(toys)
def test_any_nested_request_survives_printing_json_pickling_and_copying(toy: Toy[Any]) -> None:
    assert TOYS.build(str(toy)) == type(toy).parse(str(toy)) == toy
    assert TOYS.build(json.loads(json.dumps(toy.to_dict()))) == type(toy).from_dict(toy.to_dict()) == toy
    assert TOYS.build(bracket(toy.to_dict())) == toy
    again = pickle.loads(pickle.dumps(toy))
    assert again == copy.deepcopy(toy) == toy.changed() == toy
    assert hash(again) == hash(toy)
    with request_defaults({"toy": {"leaf": {"size": 8, "text": "other"}, "pair": {"extra": "leaf"}}}):
        assert type(toy).from_dict(toy.to_dict()) == toy


@given(toys, toys)
def test_what_differs_anywhere_inside_has_another_fingerprint(one: Toy[Any], other: Toy[Any]) -> None:
    assert (fingerprint(one.to_dict()) == fingerprint(other.to_dict())) == (one == other)
    assert (str(one) == str(other)) == (one == other)


@given(
    st.text(alphabet='[]=,"{} ', max_size=12).flatmap(lambda marks: st.permutations([*marks, "pair", "base", "leaf"]))
)
def test_any_text_builds_or_is_refused_in_one_line(parts: list[str]) -> None:
    text = "pair[base=" + "".join(parts)
    try:
        TOYS.build(text)
    except RequestError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pair[base=leaf[size=3]]", Pair(base=Leaf(size=3))),
        ("pair[base=End_Point]", Pair(base=Leaf())),
        ("pair[parts=[leaf,pair[base=leaf[size=1]],leaf[text=[]]]", None),
        ("pair[parts=[leaf,pair[base=leaf[size=1]]]]", Pair(parts=(Leaf(), Pair(base=Leaf(size=1))))),
        ('pair[base={"name":"leaf","size":2},extra=null]', Pair(base=Leaf(size=2))),
        ('pair[base="leaf[size=2]"]', Pair(base=Leaf(size=2))),
        ('pair[parts=[leaf[text="a,]b"]]]', Pair(parts=(Leaf(text="a,]b"),))),
        ("pair[plain=plain[steps=7]]", Pair(plain=Plain(steps=7))),
    ],
)
def test_reads_what_is_written(text: str, expected: Pair | None) -> None:
    if expected is None:
        with pytest.raises(RequestError, match="do not close"):
            TOYS.build(text)
    else:
        assert TOYS.build(text) == expected


def test_prints_the_shortest_request() -> None:
    assert str(Pair()) == str(Pair(base=Leaf(size=4))) == "pair"
    toy = Pair(base=Leaf(), parts=(Leaf(ratio=0.5), Pair()), extra=Leaf(text="true"))
    assert str(toy) == 'pair[base=leaf,parts=[leaf[ratio=0.5],pair],extra=leaf[text="true"]]'


def test_is_kept_whole() -> None:
    assert Pair(extra=Leaf(size=1)).to_dict() == {
        "name": "pair",
        "base": {"name": "leaf", "size": 4, "text": "", "ratio": None, "file": None},
        "parts": [],
        "extra": {"name": "leaf", "size": 1, "text": "", "ratio": None, "file": None},
        "stacked": {"name": "leaf", "size": 3, "text": "", "ratio": None, "file": None},
        "plain": {"name": "plain", "steps": 5},
    }
    table = 'parts = ["leaf[size=2]", {name = "pair", base = "leaf"}]\n[base]\nname = "leaf"\nsize = 7'
    expected = Pair(base=Leaf(size=7), parts=(Leaf(size=2), Pair(base=Leaf())))
    assert Pair.from_dict(tomllib.loads(table)) == expected


def test_walks_from_the_outside_in_and_in_order() -> None:
    toy = Pair(base=Pair(extra=Leaf(size=1)), parts=(Leaf(size=5), Leaf(size=6)))
    found = [each.size if isinstance(each, Leaf) else each.name for each in toy.walk()]
    assert found == ["pair", "pair", 4, 1, 3, "plain", 5, 6, 3, "plain"]


def test_a_preset_stands_for_a_whole_request() -> None:
    toys: Catalogue[Toy[Any]] = Catalogue("toy", [Leaf, Pair], {"big_leaf": "leaf[size=9,text=tall]"})
    assert toys.build("big_leaf") == toys.build({"name": "Big-Leaf"}) == Leaf(size=9, text="tall")
    assert toys.build("big_leaf[size=10]") == toys.build({"name": "big_leaf", "size": 10}) == Leaf(size=10, text="tall")
    with request_defaults({"toy": {"leaf": {"size": 8, "ratio": 0.5}}}):
        assert toys.build("big_leaf") == Leaf(size=9, text="tall", ratio=0.5)
    described = toys.describe()
    assert list(described) == ["leaf", "pair", "big_leaf"]
    assert {field["name"]: field["default"] for field in described["big_leaf"]["fields"]} == {
        "size": 9,
        "text": "tall",
        "ratio": None,
        "file": None,
    }
    assert described["big_leaf"]["summary"] == "leaf[size=9,text=tall]"
    for wrong, complaint in (
        ("big_lef", "did you mean 'big_leaf'"),
        ("zzz", "listed: big_leaf, leaf, pair"),
        ("big_leaf[siz=1]", "unknown field 'siz'"),
    ):
        with pytest.raises(RequestError, match=complaint):
            toys.build(wrong)

    class Big(Stackable):
        name = "big_leaf"

    with pytest.raises(ValueError, match=r"'big_leaf' is the toy leaf\[size=9,text=tall\]"):
        toys.add(Big)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("pair[base=leaf[siz=3]]", "pair: base: leaf: unknown field 'siz'; did you mean 'size'?"),
        ("pair[base=leef]", "pair: base: no toy is called 'leef'; did you mean 'leaf'?"),
        ("pair[parts=[leaf,leaf[size=0]]]", "pair: parts[1]: leaf: size=0: input should be greater than or equal to 1"),
        ("pair[base=pair[base=3]]", "pair: base: pair: base=3: should be of the kind toy"),
        ("pair[base=null]", "pair: base=null: should be of the kind toy"),
        ('pair[base={"size":3}]', 'pair: base={"size": 3}: should be of the kind toy'),
        ("pair[stacked=pair]", "pair: stacked: 'pair' is no Stackable"),
        ("pair[extra=pair]", "pair: extra: 'pair' is no Leaf"),
        ("pair[plain=leaf]", "pair: plain: no configuration is called 'leaf'; listed: plain"),
        ("pair[parts=[leaf,]]", "pair: parts[1]: '' is not of the form"),
        ("pair[parts=[leaf]x[leaf]]", "do not close in '[leaf]x[leaf]'"),
        ("pair[base=" * 40 + "leaf" + "]" * 40, "nested more than 32 deep"),
    ],
)
def test_says_where_a_request_goes_wrong(text: str, complaint: str) -> None:
    with pytest.raises(RequestError) as error:
        TOYS.build(text)
    assert complaint in str(error.value)


def test_says_which_package_is_missing() -> None:
    class Orphan(Configuration):
        catalogue = "orphan"

    class Keeper(Configuration):
        name = "keeper"
        ward: Orphan | None = None

    with pytest.raises(RequestError, match="ward: nothing of the kind 'orphan' is listed yet"):
        Keeper.parse("keeper[ward=child]")


def test_a_field_of_any_configuration_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="a field cannot be any Configuration"):

        class Vague(Configuration):
            name = "vague"
            base: Configuration = Leaf()


def test_what_a_profile_says_reaches_inside_and_the_request_has_the_last_word() -> None:
    profile: dict[str, Any] = {"toy": {"leaf": {"size": 8, "ratio": 0.5}, "pair": {"extra": "leaf[ratio=0.1]"}}}
    with request_defaults(profile):
        open_, said = TOYS.build("pair"), TOYS.build("pair[base=leaf[size=2],parts=[leaf],extra=null]")
    assert open_ == Pair(base=Leaf(size=4, ratio=0.5), extra=Leaf(size=8, ratio=0.1), stacked=Leaf(size=8, ratio=0.5))
    inner = Leaf(size=8, ratio=0.5)
    assert said == Pair(base=Leaf(size=2, ratio=0.5), parts=(inner,), stacked=inner)
    assert TOYS.build("pair") == Pair()


def test_lists_the_kind_as_the_type_and_a_request_as_the_default() -> None:
    fields = {field["name"]: (field["type"], field["default"]) for field in Pair.describe()["fields"]}
    assert fields == {
        "base": ("toy", "leaf[size=4]"),
        "parts": ("[toy]", []),
        "extra": ("leaf | null", None),
        "stacked": ("toy", "leaf"),
        "plain": ("plain", "plain"),
    }


def test_the_name_of_a_request_is_the_classs_own() -> None:
    with pytest.raises(RequestError, match="'pair' is not leaf"):
        Leaf.parse("pair")


class TestListing:
    """What a catalogue takes from others."""

    def test_a_listed_class_is_found_by_name_and_alias(self) -> None:
        catalogue: Catalogue[Toy[Any]] = Catalogue("toy", [Leaf])

        @catalogue.add
        class Other(Toy[int]):
            name = "other_one"
            aliases = ("oo",)

        assert catalogue.build("OO") == catalogue.build("other-one") == Other()
        assert list(catalogue) == ["leaf", "other_one"]

    @pytest.mark.parametrize("fields", [{"name": "Leaf"}, {"name": "new", "aliases": ("end_point",)}])
    def test_a_name_is_taken_once(self, fields: dict[str, Any]) -> None:
        catalogue: Catalogue[Toy[Any]] = Catalogue("toy", [Leaf])
        with pytest.raises(ValueError, match=r"New cannot be listed: '.*' is the toy Leaf"):
            catalogue.add(type("New", (Toy,), fields))
        assert list(catalogue) == ["leaf"]

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "null", "3"])
    def test_a_name_is_a_word(self, name: str) -> None:
        with pytest.raises(ValueError, match="not a plain word"):
            Catalogue("toy", [type("New", (Toy,), {"name": name})])

    def test_what_is_of_another_kind_unnamed_or_unfinished_is_refused(self) -> None:
        class Unfinished(Toy[int]):
            name = "unfinished"

            @abstractmethod
            def finish(self) -> None:
                """Left open."""

        for wrong, why in ((Plain, "it is no toy"), (int, "it is no toy"), (Stackable, "name"), (Unfinished, "finish")):
            with pytest.raises(TypeError, match=why):
                Catalogue("toy", [wrong])  # type: ignore[type-var]


class TestPackages:
    """Packages that declare entry points of gifthorse's groups."""

    @pytest.fixture(autouse=True)
    def _unlooked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Catalogue, "_entries", None)

    def install(self, folder: Path, name: str, entry: str, source: str, group: str = "gifthorse") -> None:
        (folder / f"{name}.py").write_text(source)
        about = folder / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{group}]\nmethods = {entry}\n")

    SOURCE = """
from gifthorse.core.configuration import CATALOGUES
from gifthorse.core.configuration import Configuration
class Guest(Configuration):
    catalogue = "guest"
    name = "guest"
def add():
    assert "guest" not in CATALOGUES["guest"]
    CATALOGUES["guest"].add(Guest)
"""

    @pytest.mark.parametrize("as_function", [False, True])
    def test_are_loaded_once_when_something_is_looked_up(
        self, as_function: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from gifthorse.core import configuration

        name = f"guest_package_{as_function}".lower()
        source = self.SOURCE if as_function else self.SOURCE + "add()\n"
        self.install(tmp_path, name, f"{name}:add" if as_function else name, source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(configuration, "CATALOGUES", {})

        class Host(Configuration):
            catalogue = "guest"
            name = "host"

        guests: Catalogue[Configuration] = Catalogue("guest", [Host])
        assert list(guests._classes) == ["host"]
        assert guests.build("guest").name == "guest"
        assert list(guests) == ["host", "guest"]

    def test_a_class_is_declared_under_its_kind_and_loaded_when_that_is_looked_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from gifthorse.core import configuration

        monkeypatch.setattr(configuration, "CATALOGUES", {})
        self.install(tmp_path, "classy_package", "classy_package:Guest", self.SOURCE, "gifthorse.guests")
        monkeypatch.syspath_prepend(tmp_path)
        assert TOYS.find("leaf") is Leaf
        assert "classy_package" not in sys.modules
        guests: Catalogue[Configuration] = Catalogue("rare guest", [])
        monkeypatch.setattr(guests, "kind", "guest")
        assert list(guests) == list(guests) == ["guest"]
        assert guests.add(guests["guest"]) is guests["guest"], "it may list itself as well"

    def test_what_classes_declare_beside_themselves_is_known_when_all_are_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.install(tmp_path, "quiet_package", "quiet_package:Guest", self.SOURCE, "gifthorse.guests")
        monkeypatch.syspath_prepend(tmp_path)
        Catalogue.load_packages()
        assert "quiet_package" in sys.modules

    @pytest.mark.parametrize(
        ("group", "entry", "source", "reason"),
        [
            (
                "gifthorse",
                "",
                "\nraise RuntimeError('out of paper')",
                r"RuntimeError: out of paper \({name}.py, line 2\)",
            ),
            ("gifthorse.toys", ":Toy", "1 +", r"SyntaxError: invalid syntax \({name}.py, line 1\)"),
            ("gifthorse.toys", ":Toy", "", r"AttributeError: module '{name}' has no attribute 'Toy'"),
            ("gifthorse.toys", ":Toy", "Toy = int", r"TypeError: <class 'int'> cannot be listed: it is no toy"),
            (
                "gifthorse.toys",
                ":Toy",
                "def f():\n 'x' * 9999\n raise OSError('x' * 999)\nf()",
                r"x{{200}}… \({name}.py, line 3\)",
            ),
        ],
        ids=["module", "syntax", "nothing", "no class of the kind", "long"],
    )
    def test_one_that_fails_is_named(
        self, group: str, entry: str, source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = f"broken_{tmp_path.name}"
        self.install(tmp_path, name, name + entry, source, group)
        monkeypatch.syspath_prepend(tmp_path)
        declared = rf"methods = {name}{entry}, in {group}"
        for _ in range(2):
            said = rf"the package {name} cannot add its methods \({declared}\): .*{reason.format(name=name)}$"
            with pytest.raises(RequestError, match=said):
                TOYS.find("leaf")
