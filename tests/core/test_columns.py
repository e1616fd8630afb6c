"""Flat columns: one name for whatever a record holds, and the same name everywhere."""

import pytest

from gifthorse.core.columns import flat, has_column, split, unknown_column, value_in
from records import BADNETS, CLEANSE, record

TUNED = {"head": {"name": "fcn1", "tuning": "full"}, "dataset": {"name": "digits", "size": 12}, "data_digest": "e" * 24}


def test_every_field_number_and_time_has_a_column() -> None:
    found = flat(record(seed=3, defense=CLEANSE, seconds={"attack": 1.5}, artifacts={"trojan": "k"}, doubts=["weak"]))
    assert found["attack.name"] == "badnets"
    assert found["attack.poison_rate"] == 0.1
    assert found["metrics.attack.asr"] == 0.99
    assert found["seconds.attack"] == 1.5
    assert found["environment.gifthorse"] == "0.1.0"
    assert found["artifacts.trojan"] == "k"
    assert found["doubts"] == ["weak"]
    assert found["seed"] == 3
    assert found["schema"] == 1
    assert found["reason"] is None
    assert "downstream" not in found


def test_configurations_within_configurations_have_columns_of_their_own() -> None:
    wrapped = record(attack={"name": "wrapper", "base": BADNETS, "defenses": [{"name": "strip"}], "against": None})
    found = flat(wrapped)
    assert found["attack.base.poison_rate"] == 0.1
    assert found["attack.defenses"] == [{"name": "strip"}]
    assert found["attack.against"] is None
    tuned = flat(record(downstream=TUNED))
    assert (tuned["downstream.head.tuning"], tuned["downstream.dataset.size"]) == ("full", 12)


def test_a_column_is_found_by_the_name_that_it_has_when_flat() -> None:
    for each in (record(), record(downstream=TUNED), record(attack={"name": "wrapper", "base": BADNETS})):
        for column, value in flat(each).items():
            if column != "schema":
                assert value_in(each, column) == value, column


def test_what_a_record_does_not_have_is_none() -> None:
    for column in ("attack.poison_rat", "metrics.attack.nope", "defense.name", "attack.name.first", "nope", "seed.x"):
        assert value_in(record(), column) is None


def test_parts_are_their_names_and_the_version_is_gifthorses() -> None:
    assert [value_in(record(), column) for column in ("attack", "dataset", "version")] == ["badnets", "digits", "0.1.0"]
    assert value_in(record(downstream=TUNED), "downstream") == "fcn1"
    assert split("version") == ["environment", "gifthorse"]


def test_a_column_that_is_null_is_known_and_a_misspelt_one_gets_its_neighbours() -> None:
    known = [record(attack=BADNETS | {"source": None})]
    assert has_column("attack.source", known)
    assert not has_column("attack.sources", known)
    assert "did you mean 'attack.poison_rate'" in str(unknown_column("attack.poison_rat", known))
    assert "'metrics.attack.asr'" in str(unknown_column("attack.asr", known))
    assert "; columns: metrics.attack.asr" in str(unknown_column("asr", known))
    assert "; columns: attack, class_names, created, " in str(unknown_column("zzzz", known))


@pytest.mark.parametrize("column", ["", ".", "attack.", "..", "metrics."])
def test_no_name_crashes(column: str) -> None:
    assert value_in(record(), column) is None
    assert not has_column(column, [record()])
    assert "no record has a column" in str(unknown_column(column, [record()]))
