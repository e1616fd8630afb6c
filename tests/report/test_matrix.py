"""Matrices of results: known numbers, nothing averaged that differs, and nothing blank without a word."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gifthorse.core.errors import RequestError
from gifthorse.core.family import FAMILIES, Family
from gifthorse.core.metric import METRICS
from gifthorse.core.record import Record
from gifthorse.report.intervals import mean_interval
from gifthorse.report.matrix import find_metric, matrix
from gifthorse.report.sheet import Sheet, to_text
from records import ATTACK, BADNETS, CLEANSE, PRUNING, SHRINKPAD, STRIP, benign, record, repaired

ASRS = [0.10, 0.16, 0.25]
BLEND = {"name": "targeted_blend", "target": 1}
FCN1 = {"head": {"name": "fcn1", "tuning": "full"}, "dataset": {"name": "digits", "size": 16}, "data_digest": "d" * 24}


def entry(sheet: Sheet, row: Sequence[str] | str, column: str = "", metric: str = "") -> tuple[str, tuple[str, ...]]:
    """Text and notes of the one entry in a row, under a head."""
    row = (row,) if isinstance(row, str) else tuple(row)
    (line,) = [line for line in sheet.lines if line.labels == row]
    heads = enumerate(sheet.heads)
    (place,) = [place for place, head in heads if head.group == column and head.name.startswith(metric)]
    return line.entries[place].text, line.entries[place].notes


def labels(sheet: Sheet) -> list[tuple[str, ...]]:
    return [line.labels for line in sheet.lines]


def groups(sheet: Sheet) -> list[str]:
    return list(dict.fromkeys(head.group for head in sheet.heads))


def test_a_number_is_the_mean_over_seeds_with_the_standard_deviation() -> None:
    sheet = matrix([repaired(asr, seed) for seed, asr in enumerate(ASRS)])
    assert entry(sheet, "badnets", "shrinkpad") == ("17.0 ± 7.5", ())
    assert np.std(ASRS, ddof=1) == pytest.approx(0.0754983)
    (_, number) = sheet.numbers()
    assert number["mean"] == pytest.approx(np.mean(ASRS), rel=1e-12)
    assert number["std"] == pytest.approx(np.std(ASRS, ddof=1), rel=1e-12)
    assert (number["n"], number["seeds"], number["values"]) == (3, [0, 1, 2], ASRS)
    assert "mean ± standard deviation over seeds, n = 3" in sheet.caption


def test_the_interval_is_students() -> None:
    sheet = matrix([repaired(asr, seed) for seed, asr in enumerate(ASRS)], interval=True)
    low, high = stats.t.interval(0.95, len(ASRS) - 1, loc=np.mean(ASRS), scale=stats.sem(ASRS))
    assert entry(sheet, "badnets", "shrinkpad") == (f"17.0 [−{-100 * low:.1f}, {100 * high:.1f}]", ())
    (_, number) = sheet.numbers()
    assert (number["low"], number["high"]) == (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))
    assert "[95 % interval of the mean, by Student's t]" in sheet.caption


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_the_interval_of_any_numbers_is_students(values: list[float]) -> None:
    found = mean_interval(values)
    assert found is not None
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    np.testing.assert_allclose(found, (np.mean(values) - half, np.mean(values) + half), rtol=1e-7, atol=1e-7)


def test_one_seed_is_a_number_without_a_spread_and_no_interval() -> None:
    for interval in (False, True):
        sheet = matrix([repaired(0.25)], interval=interval)
        assert entry(sheet, "badnets", "shrinkpad") == ("25.0", ())
        assert "one seed each" in sheet.caption
    assert mean_interval([0.5]) is None
    assert sheet.numbers()[1]["std"] is None


def test_numbers_are_compared_with_a_row_or_with_a_column() -> None:
    """AEGIS' RQ1 and RQ5: how much more successful is one attack, or one training, than another?"""
    metrics = {"attack.asr": 0.6}
    records = [record(metrics=metrics), record(metrics=metrics | {"attack.asr": 0.9}, attack=BLEND)]
    by_row = matrix(records, columns="metric", metrics=["attack.asr"], relative_to="badnets")
    assert entry(by_row, "badnets", metric="ASR")[0] == "60.0"
    assert entry(by_row, "targeted_blend", metric="ASR")[0] == "90.0 (+50 %)"
    assert [each["gain"] for each in by_row.numbers()] == [None, pytest.approx(0.5)]
    assert any("of the mean of badnets" in remark for remark in by_row.remarks)
    by_column = matrix(records, "seed", "attack", ["attack.asr"], relative_to="targeted_blend")
    assert entry(by_column, "0", "badnets")[0] == "60.0 (−33 %)"
    assert entry(by_column, "0", "targeted_blend")[0] == "90.0"
    assert "gain" not in matrix(records).numbers()[0]


def test_what_is_compared_with_has_to_be_there_and_to_be_more_than_nothing() -> None:
    with pytest.raises(RequestError, match="no row and no column is called 'esb'; there are: badnets"):
        matrix([record()], columns="metric", metrics=["attack.asr"], relative_to="esb")
    nothing = [record(metrics={"attack.asr": 0.0}), record(attack=BLEND)]
    sheet = matrix(nothing, columns="metric", metrics=["attack.asr"], relative_to="badnets")
    assert entry(sheet, "targeted_blend", metric="ASR")[0] == "99.0"


def test_another_n_than_the_usual_is_said_in_the_cell() -> None:
    records = [repaired(asr, seed) for seed, asr in enumerate(ASRS)]
    sheet = matrix([*records, *(repaired(0.5, seed, defense=PRUNING) for seed in (0, 1))])
    assert entry(sheet, "badnets", "fine_pruning") == ("50.0 ± 0.0 (n = 2)", ())
    assert "n = 3 unless another n is said" in sheet.caption


def test_every_defense_has_the_metric_of_its_family_and_the_attack_its_success() -> None:
    verdict = record(defense=CLEANSE, metrics={"defense.index": 3.5, "defense.aiv": 2.0})
    screen = record(defense=STRIP, metrics={"defense.auroc": 0.97, "defense.tpr": 0.9})
    sheet = matrix([repaired(0.25), screen, verdict, benign(defense=CLEANSE, metrics={"defense.index": 1.25})])
    assert [(head.group, head.name) for head in sheet.heads] == [
        ("no defense", "ASR (%) ↑"),
        ("shrinkpad", "ASR (%) ↓"),
        ("strip", "AUROC ↑"),
        ("neural_cleanse", "Index"),
    ]
    assert labels(sheet) == [("none",), ("badnets",)]
    assert [each.text for each in sheet.lines[1].entries] == ["99.0", "25.0", "0.970", "3.50"]
    assert entry(sheet, "none", "neural_cleanse") == ("1.25", ())


def test_each_family_has_a_headline_among_its_columns() -> None:
    """But that of combined defenses, whose results stand in the tables of others."""
    for family in FAMILIES.values():
        if family.name == "combination":
            continue
        assert family.headline in family.columns
        assert family.headline in METRICS


def test_the_success_of_an_attack_is_taken_once_per_seed_from_whatever_cell_has_it() -> None:
    def cell(seed: int, defense: Any) -> Record:
        return record(seed=seed, defense=defense, metrics={"attack.asr": 0.8 + 0.1 * seed, "defense.asr": 0.5})

    records = [cell(0, SHRINKPAD), cell(0, PRUNING), cell(0, None), cell(1, SHRINKPAD)]
    for sheet in (matrix(records), matrix(records, "attack", "metric", ["attack.asr"])):
        text, notes = entry(sheet, "badnets", "no defense" if len(sheet.heads) > 1 else "", "ASR")
        assert (text, notes) == ("85.0 ± 7.1", ())


@pytest.mark.parametrize(
    ("change", "stub", "named"),
    [
        ({"dataset": {"name": "digits", "size": 12}}, "dataset", {"digits[size=16]", "digits[size=12]"}),
        ({"data_digest": "e" * 24}, "dataset", {"digits (images dddddddd)", "digits (images eeeeeeee)"}),
        ({"data_digest": None}, "dataset", {"digits (images dddddddd)", "digits (images of an older record)"}),
        ({"model": {"name": "small_cnn", "width": 8}}, "model", {"small_cnn[width=16]", "small_cnn[width=8]"}),
        ({"training": {"name": "standard", "epochs": 5}}, "training", {"standard[epochs=20]", "standard[epochs=5]"}),
        ({"profile": "paper"}, "profile", {"laptop", "paper"}),
        ({"environment": {**record().environment.model_dump(), "gifthorse": "0.2.0"}}, "version", {"0.1.0", "0.2.0"}),
        (
            {"attack": BADNETS | {"poison_rate": 0.2}},
            "attack",
            {"badnets[poison_rate=0.1]", "badnets[poison_rate=0.2]"},
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_differs_in_anything_but_the_seed_has_rows_of_its_own(change: Any, stub: str, named: set[str]) -> None:
    sheet = matrix([repaired(0.1), repaired(0.3, seed=1, **change)])
    assert {line.labels[sheet.stubs.index(stub)] for line in sheet.lines} == named
    assert sorted(line.entries[-1].text for line in sheet.lines) == ["10.0", "30.0"]


def test_records_that_share_their_configurations_are_still_told_apart() -> None:
    """As those of a store do, which are read at once."""
    one = repaired(0.1)
    newer = one.environment.model_copy(update={"gifthorse": "0.2.0"})
    for change in ({"data_digest": "e" * 24}, {"profile": "paper"}, {"environment": newer}):
        other = one.model_copy(update={"metrics": one.metrics | {"defense.asr": 0.3}, "seed": 1, **change})
        assert [line.entries[-1].text for line in matrix([one, other]).lines] == ["10.0", "30.0"]


def test_what_is_the_same_everywhere_is_said_once() -> None:
    sheet = matrix([repaired(0.1)])
    assert sheet.stubs == ("attack",)
    for said in ("dataset digits", "model small_cnn", "training standard", "profile laptop", "version 0.1.0"):
        assert said in sheet.caption


def test_a_swept_field_is_an_axis() -> None:
    def cell(rate: float, defense: Any, asr: float) -> Record:
        return repaired(asr, attack=BADNETS | {"poison_rate": rate}, defense=defense)

    records = [cell(0.1, SHRINKPAD, 0.5), cell(0.02, SHRINKPAD, 0.25), cell(0.02, PRUNING, 0.125)]
    sheet = matrix(records, "attack.poison_rate", "defense", ["defense.asr"])
    assert sheet.stubs == ("attack.poison_rate",)
    assert labels(sheet) == [("0.02",), ("0.1",)]
    assert "attack badnets" in sheet.caption
    turned = matrix(records, "defense", "attack.poison_rate", ["defense.asr"])
    assert groups(turned) == ["poison_rate=0.02", "poison_rate=0.1"]
    assert entry(turned, "shrinkpad", "poison_rate=0.1") == ("50.0", ())
    assert entry(turned, "fine_pruning", "poison_rate=0.1") == ("–", ("not run",))


def test_the_other_fields_of_a_swept_attack_still_tell_rows_apart() -> None:
    sizes = [repaired(0.1 * size, attack=BADNETS | {"trigger_size": size}) for size in (2, 3)]
    sheet = matrix(sizes, "attack.poison_rate", "defense", ["defense.asr"])
    assert (sheet.stubs, labels(sheet)) == (
        ("attack", "attack.poison_rate"),
        [("badnets[trigger_size=2]", "0.1"), ("badnets[trigger_size=3]", "0.1")],
    )
    turned = matrix(sizes, "defense", "attack.poison_rate", ["defense.asr"])
    assert groups(turned) == ["badnets[trigger_size=2], poison_rate=0.1", "badnets[trigger_size=3], poison_rate=0.1"]


def test_attacks_without_a_swept_field_are_not_lost() -> None:
    sheet = matrix([repaired(0.1), repaired(0.3, attack=BLEND)], "attack.poison_rate", "defense", ["defense.asr"])
    assert labels(sheet) == [("badnets", "0.1"), ("targeted_blend", "–")]


@pytest.mark.parametrize("axis", ["seed", "dataset", "model", "profile", "version", "environment.device", "family"])
def test_any_column_is_an_axis(axis: str) -> None:
    for sheet in (matrix([repaired(0.1)], axis, "attack"), matrix([repaired(0.1)], "attack", axis)):
        assert "ASR" in sheet.heads[0].name


def test_numbers_are_sorted_by_size() -> None:
    sheet = matrix([record(seed=seed) for seed in (10, 9, 100)], "seed", "metric", ["attack.asr"])
    assert labels(sheet) == [("9",), ("10",), ("100",)]


def test_seeds_as_columns_are_not_averaged() -> None:
    sheet = matrix([repaired(asr, seed) for seed, asr in enumerate(ASRS)], "attack", "seed", ["defense.asr"])
    assert [each.text for each in sheet.lines[0].entries] == ["10.0", "16.0", "25.0"]


def test_several_metrics_are_beside_each_other_and_headed_alike_are_named() -> None:
    sheet = matrix([repaired(0.25)], "attack", "defense", ["attack.asr", "defense.asr", "defense.acc"])
    assert [head.name for head in sheet.heads if head.group == "shrinkpad"] == [
        "attack.asr (%) ↑",
        "defense.asr (%) ↓",
        "Accuracy (%) ↑",
    ]


def test_what_was_skipped_failed_or_never_run_says_so_with_the_reason() -> None:
    records = [
        repaired(0.25),
        repaired(0.5, defense=PRUNING),
        record(attack=BLEND, defense=SHRINKPAD, status="skipped", reason="needs a stem"),
        record(attack=BLEND, defense=PRUNING, status="failed", reason="ValueError: boom\nwith   more"),
        record(attack={"name": "esb"}),
    ]
    sheet = matrix(records)
    assert entry(sheet, "targeted_blend", "shrinkpad") == ("skipped", ("skipped: needs a stem",))
    assert entry(sheet, "targeted_blend", "fine_pruning") == ("failed", ("failed: ValueError: boom with more",))
    assert entry(sheet, "esb", "shrinkpad") == ("–", ("not run",))
    assert entry(sheet, "targeted_blend", "no defense") == ("99.0", ())
    text = to_text(sheet)
    for said in ("[a] not run", "skipped: needs a stem", "failed: ValueError: boom with more"):
        assert said in text
    assert {number["status"] for number in sheet.numbers()} == {"done", "skipped", "failed", "not run"}


def test_what_is_partly_missing_is_marked_with_the_seeds() -> None:
    records = [
        repaired(0.2, 0),
        repaired(0.4, 1),
        record(seed=2, defense=SHRINKPAD, status="failed", reason="boom"),
        record(seed=3, defense=SHRINKPAD, status="failed", reason="boom"),
        record(seed=4, defense=SHRINKPAD, metrics={"defense.acc": 0.5}),
    ]
    assert entry(matrix(records), "badnets", "shrinkpad") == (
        "30.0 ± 14.1 (n = 2)",
        ("failed (seeds 2, 3): boom", "defense.asr does not apply (seed 4)"),
    )


def test_a_metric_that_does_not_apply_says_so() -> None:
    records = [
        record(defense=STRIP, metrics={"defense.auroc": 0.9, "defense.fpr": 0.05}),
        benign(defense=STRIP, metrics={"defense.fpr": 0.04}),
    ]
    sheet = matrix(records, "attack", "defense", ["defense.auroc", "defense.fpr"])
    assert entry(sheet, "none", "strip", "AUROC") == ("–", ("defense.auroc does not apply",))


def test_columns_and_rows_without_any_number_are_named_below() -> None:
    records = [repaired(0.25), record(defense=STRIP, metrics={"defense.auroc": 0.9}), benign()]
    sheet = matrix(records, "attack", "defense", ["defense.asr"])
    assert (groups(sheet), labels(sheet)) == (["shrinkpad"], [("badnets",)])
    assert sheet.remarks == ("without a number, and so not in this table: defense.asr of strip; none",)


def test_an_attack_that_did_not_take_is_marked_with_the_reasons() -> None:
    weak = {"metrics": {"attack.valid": False, "defense.asr": 0.1}}
    records = [
        repaired(0.1, 0, **weak, doubts=["success rate 0.31 < 0.8"]),
        repaired(0.1, 1, **weak, doubts=["success rate 0.31 < 0.8"]),
        repaired(0.1, 0, attack=BLEND, **weak, doubts=["leaks"]),
        repaired(0.3, 1, attack=BLEND),
        repaired(0.3, 1, attack={"name": "esb"}, **weak),
    ]
    sheet = matrix(records)
    for column in ("no defense", "shrinkpad"):
        assert entry(sheet, "badnets", column)[1] == ("the attack did not take – seeds 0, 1: success rate 0.31 < 0.8",)
        assert entry(sheet, "targeted_blend", column)[1] == ("the attack took in 1 of 2 seeds – seed 0: leaks",)
        assert entry(sheet, "esb", column)[1] == ("the attack did not take",)


def test_flags_are_counted_and_classes_listed() -> None:
    def verdict(seed: int, flagged: bool, suspect: int) -> Record:
        return record(
            seed=seed, defense=CLEANSE, metrics={"defense.flagged": flagged, "defense.suspect_class": suspect}
        )

    sheet = matrix(
        [verdict(0, True, 7), verdict(1, False, 3), verdict(2, True, 7)],
        "attack",
        "defense",
        ["defense.flagged", "defense.suspect_class"],
    )
    assert [each.text for each in sheet.lines[0].entries] == ["2 of 3", "3, 7"]
    flagged, suspect = sheet.numbers()
    assert (flagged["mean"], flagged["std"], suspect["mean"]) == (pytest.approx(2 / 3), None, None)
    assert suspect["values"] == [7.0, 3.0, 7.0]


def test_of_two_records_of_a_seed_the_last_one_counts_and_the_other_is_mentioned() -> None:
    """As after a method was edited: the same request, another key."""
    older, newer = repaired(0.9, 0), repaired(0.1, 0)
    expected = ("10.0", ("seed 0 was measured 2 times, with other results; the last one is shown",))
    assert entry(matrix([older, newer]), "badnets", "shrinkpad") == expected
    assert entry(matrix([newer, older]), "badnets", "shrinkpad") == expected


def test_a_newer_failure_is_mentioned_beside_the_older_number() -> None:
    sheet = matrix([repaired(0.9, 0), record(defense=SHRINKPAD, status="failed", reason="boom")])
    assert entry(sheet, "badnets", "shrinkpad") == ("90.0", ("failed (seed 0): boom",))


def test_other_contents_of_a_named_file_are_not_averaged() -> None:
    mark = BADNETS | {"trigger_image": "mark.png"}
    old, new = (repaired(0.9 - seed / 2, seed, attack=mark, file_digests={"mark.png": str(seed)}) for seed in (0, 1))
    text, notes = entry(matrix([old, new]), "badnets", "shrinkpad")
    assert (text, notes) == ("40.0", ("1 records of other contents of mark.png are left out",))


def test_downstream_users_have_a_table_of_their_own() -> None:
    tuned = record(downstream=FCN1, metrics={"downstream.asr": 0.75})
    sheet = matrix([tuned, repaired(0.25)], "attack", "downstream")
    assert [(head.group, head.name) for head in sheet.heads] == [
        ("as delivered", "ASR (%) ↑"),
        ("fcn1[tuning=full]", "ASR (%) ↑"),
    ]
    assert [each.text for each in sheet.lines[0].entries] == ["99.0", "75.0"]
    assert sheet.remarks == ("records with a defense, which are not in this table: 1",)
    assert matrix([tuned, repaired(0.25)]).remarks == ("records of a downstream user, which are not in this table: 1",)
    assert entry(matrix([tuned]), "badnets", "no defense") == ("99.0", ())


def test_varied_triggers_have_a_table_of_their_own_and_are_never_averaged_with_the_planted_one() -> None:
    copies = [{"name": "amplified", "copies": count} for count in (4, 9)]
    varied = [record(stamp=stamp, metrics={"stamp.asr": asr}) for stamp, asr in zip(copies, (0.75, 0.5), strict=True)]
    sheet = matrix([*varied, repaired(0.25), repaired(0.125, stamp=copies[0])], "attack", "stamp")
    assert [(head.group, head.name) for head in sheet.heads] == [
        ("as planted", "ASR (%) ↑"),
        ("amplified[copies=4]", "ASR (%) ↑"),
        ("amplified[copies=9]", "ASR (%) ↑"),
    ]
    assert [each.text for each in sheet.lines[0].entries] == ["99.0", "75.0", "50.0"]
    both = matrix([*varied, repaired(0.25), repaired(0.125, stamp=copies[0])])
    assert entry(both, "badnets", "shrinkpad") == ("25.0", ())
    assert both.remarks == ("records with a varied trigger, which are not in this table: 3",)
    along = matrix(varied, "attack", "stamp.copies", ["stamp.asr"])
    assert [(head.group, entry_.text) for head, entry_ in zip(along.heads, along.lines[0].entries, strict=True)] == [
        ("copies=4", "75.0"),
        ("copies=9", "50.0"),
    ]
    after = matrix([repaired(0.125, stamp=copies[0]), repaired(0.25)], "attack", "stamp", ["defense.asr"])
    assert [each.text for each in after.lines[0].entries] == ["25.0", "12.5"]


def test_images_of_downstream_users_are_told_apart() -> None:
    def tuned(digest: str, asr: float) -> Record:
        other = FCN1 | {"dataset": {"name": "mnist"}, "data_digest": digest}
        return record(downstream=other, metrics={"downstream.asr": asr})

    sheet = matrix([tuned("a" * 24, 0.5), tuned("b" * 24, 0.25)], "attack", "downstream", ["downstream.asr"])
    assert [each.text for each in sheet.lines[0].entries] == ["50.0", "25.0"]
    assert len(set(groups(sheet))) == 2


def test_rows_of_defenses_share_a_metric_or_have_to_be_told_one() -> None:
    records = [repaired(0.25), repaired(0.5, defense=PRUNING)]
    sheet = matrix(records, "defense", "attack")
    assert labels(sheet) == [("shrinkpad",), ("fine_pruning",)]
    with pytest.raises(RequestError, match=r"judged by defense\.asr or defense\.auroc: name a metric"):
        matrix([*records, record(defense=STRIP, metrics={"defense.auroc": 0.9})], "defense", "attack")


def test_a_family_that_is_not_declared_has_its_own_numbers() -> None:
    found = record(defense={"name": "custom"}, family="novel", metrics={"defense.novelty": 0.5})
    assert entry(matrix([found]), "badnets", "custom") == ("0.50", ())
    assert Family("x", "X", "", ("defense.acc",)).headline == "defense.acc"


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("attack.asr", "attack.asr"),
        ("metrics.attack.asr", "attack.asr"),
        ("auroc", "defense.auroc"),
        ("AUROC", "defense.auroc"),
        ("f1", "defense.f1"),
        ("seconds.attack", "seconds.attack"),
        ("defense.novelty", "defense.novelty"),
    ],
)
def test_a_metric_goes_by_its_name_or_a_short_one(word: str, name: str) -> None:
    numbers = {"defense.auroc": 0.9, "defense.f1": 0.0, "defense.novelty": 1.0}
    assert find_metric(word, [record(defense=STRIP, metrics=numbers, seconds={"attack": 1.0})]).name == name


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("asr", "'asr' may be benign.asr, attack.asr, defense.asr, downstream.asr, stamp.asr: say which"),
        ("defense.asrr", "no record has a metric 'defense.asrr'; did you mean 'defense.asr'"),
        ("wxyz", "no record has a metric 'wxyz'; they have: attack.acc, attack.asr, attack.cad"),
        ("defense.mjs", "none of the 1 records has defense.mjs; they have: attack.acc, attack.asr, attack.cad"),
    ],
)
def test_a_metric_that_is_not_there_is_an_error_that_helps(word: str, said: str) -> None:
    with pytest.raises(RequestError) as error:
        find_metric(word, [record()])
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (
            "attack.poison_rat",
            "defense",
            "no record has a column 'attack.poison_rat'; did you mean 'attack.poison_rate'",
        ),
        ("attack", "nope", "no record has a column 'nope'"),
        ("attack", "attack", "rows and columns are both attack"),
        ("metric", "attack", "no record has a column 'metric'"),
    ],
)
def test_an_axis_that_is_not_there_is_an_error_that_helps(rows: str, columns: str, said: str) -> None:
    with pytest.raises(RequestError) as error:
        matrix([repaired(0.1)], rows, columns)
    assert said in str(error.value)


def test_nothing_to_show_is_said() -> None:
    with pytest.raises(RequestError, match="none of the 1 records has a number for this table"):
        matrix([benign()])


SETTINGS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 3),
        "attack": st.sampled_from([{"name": "none"}, BADNETS, BADNETS | {"poison_rate": 0.2}, BLEND]),
        "defense": st.sampled_from([None, SHRINKPAD, PRUNING, STRIP, CLEANSE]),
        "status": st.sampled_from(["done", "done", "skipped", "failed"]),
        "profile": st.sampled_from(["laptop", "paper"]),
        "value": st.floats(0, 1),
        "valid": st.booleans(),
    }
)


@given(
    st.lists(SETTINGS, min_size=1, max_size=12),
    st.sampled_from(["attack", "defense", "seed", "profile", "attack.poison_rate"]),
    st.sampled_from(["attack", "defense", "seed", "metric", "attack.poison_rate"]),
    st.sampled_from([(), ("attack.acc",), ("defense.asr", "attack.asr")]),
)
def test_no_number_is_lost_invented_or_left_blank(
    cells: list[dict[str, Any]], rows: str, columns: str, metrics: tuple[str, ...]
) -> None:
    def cell(value: float, valid: bool, **settings: Any) -> Record:
        names = ("attack.acc", "attack.asr", "defense.asr", "defense.auroc", "defense.index")
        found = dict.fromkeys(names if settings["defense"] else names[:2], value)
        reason = None if settings["status"] == "done" else "a reason"
        return record(**settings, reason=reason, metrics=found | {"attack.valid": valid})

    records = [cell(**each) for each in cells]
    by_id = {each.id: each for each in records}
    try:
        sheet = matrix(records, rows, columns, metrics)
    except RequestError:
        return
    assert len(sheet.numbers()) == sum(len(line.entries) for line in sheet.lines)
    for line, numbers in zip(sheet.lines, np.array_split(np.array(sheet.numbers()), len(sheet.lines)), strict=True):
        for shown, number in zip(line.entries, numbers, strict=True):
            assert shown.text
            found = [by_id[identity] for identity in number["records"]]
            if number["n"]:
                assert [each.metrics[number["metric"]] for each in found] == number["values"]
                assert len({each.seed for each in found}) == number["n"]
                assert len({(str(each.attack), each.profile) for each in found}) == 1
                if number["metric"].startswith("defense."):
                    assert len({str(each.defense) for each in found}) == 1
                assert bool(shown.notes) or all(each.metrics["attack.valid"] for each in found)
            else:
                assert shown.notes
                assert re.fullmatch("–|skipped|failed", shown.text)


def test_many_settings_are_named_in_reasonable_time() -> None:
    rates = [repaired(0.1, attack=BADNETS | {"poison_rate": k / 3000, "x": k}, metrics=ATTACK) for k in range(3000)]
    sheet = matrix(rates, "attack", "metric", ["attack.asr"])
    assert len(sheet.lines) == 3000
