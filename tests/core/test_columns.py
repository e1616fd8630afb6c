"""Flat columns: one name for whatever a record holds, and the same name everywhere."""

import pytest

from gifthorse.core.columns import flat, has_column, split, unknown_column, value_in, without
from gifthorse.core.errors import RequestError
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
    assert "stamp" not in found
    assert flat(record(stamp={"name": "amplified", "copies": 9}))["stamp.copies"] == 9
    assert value_in(record(stamp={"name": "amplified", "copies": 9}), "stamp") == "amplified"


def test_a_whole_part_is_a_column_whether_or_not_any_record_has_one() -> None:
    bare_ones = [record()]
    assert all(has_column(part, bare_ones) for part in ("attack", "defense", "analysis", "downstream", "stamp"))
    assert not has_column("defense.fpr", bare_ones)
    assert not has_column("defence", bare_ones)
    assert "did you mean 'defense'" in str(unknown_column("defence", bare_ones))


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
    assert "; columns: analysis, attack, class_names, command, created, " in str(unknown_column("zzzz", known))


@pytest.mark.parametrize("column", ["", ".", "attack.", "..", "metrics."])
def test_no_name_crashes(column: str) -> None:
    assert value_in(record(), column) is None
    assert not has_column(column, [record()])
    assert "no record has a column" in str(unknown_column(column, [record()]))


def test_records_without_a_field_are_the_same_but_for_it_and_others_stay_as_they_are() -> None:
    known = [record(attack=BADNETS | {"target": target}) for target in (0, 1)]
    found = without(known, ["attack.target"])
    assert found[0].attack == found[1].attack == {key: value for key, value in BADNETS.items() if key != "target"}
    assert [each.attack["target"] for each in known] == [0, 1]
    with pytest.raises(RequestError, match=r"did you mean 'attack\.poison_rate'"):
        without(known, ["attack.poison_rat"])
    with pytest.raises(RequestError, match="cannot average over 'attack'"):
        without(known, ["attack"])
