"""Bracket strings and records: whatever comes in, it parses or it is refused in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.data.badnets import BadNets
from gifthorse.core.configuration import Configuration, fingerprint, split_request
from gifthorse.core.errors import RequestError
from gifthorse.core.record import Record

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.text(max_size=60) | st.text(alphabet="ab[]=,\"'\\ .1", max_size=30))
def test_any_text_splits_or_is_refused(text: str) -> None:
    try:
        name, fields = split_request(text)
    except RequestError as error:
        assert str(error)
    else:
        assert name
        json.dumps(fields, allow_nan=False)


@given(st.text(alphabet='badnets[]=,poison_rate.0123456789"', max_size=50))
def test_any_attack_request_builds_or_is_refused_in_one_line(text: str) -> None:
    try:
        ATTACKS.build(text)
    except RequestError as error:
        assert "\n" not in str(error)


class Anything(Configuration):
    name = "anything"
    text: str = ""
    number: float = 0.0
    words: tuple[str, ...] = ()


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.lists(st.text(), max_size=3))
def test_any_values_survive_the_bracket_string(text: str, number: float, words: list[str]) -> None:
    original = Anything(text=text, number=number, words=tuple(words))
    assert Anything.parse(str(original)) == original
    assert Anything.from_dict(json.loads(json.dumps(original.to_dict()))) == original


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(document: dict[str, object]) -> None:
    assert fingerprint(document) == fingerprint(dict(reversed(document.items())))


@given(st.dictionaries(st.sampled_from(list(BadNets.model_fields)), json_values, max_size=3))
def test_any_json_builds_an_attack_or_is_refused(fields: dict[str, object]) -> None:
    try:
        attack = BadNets.from_dict(fields)
    except RequestError as error:
        assert str(error).startswith("badnets: ")
    else:
        assert BadNets.parse(str(attack)) == attack


def test_a_changed_request_keeps_the_rest_and_is_checked() -> None:
    attack = BadNets(target=3)
    assert attack.changed(lr=0.5) == BadNets(target=3, lr=0.5)
    assert attack.lr == BadNets().lr
    for fields in ({"lr": -1.0}, {"learning_rate": 0.5}):
        with pytest.raises(RequestError, match=r"^badnets: "):
            attack.changed(**fields)


@given(json_values | st.dictionaries(st.text(), json_values, max_size=3))
def test_any_json_is_a_record_or_is_refused(document: object) -> None:
    with pytest.raises(ValidationError):
        Record.from_json(json.dumps(document))
