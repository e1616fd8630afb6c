"""Two defenses on the same models, or two attacks with the same seeds: known differences, a named test, only pairs."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gifthorse.core.errors import RequestError
from gifthorse.core.record import Record
from gifthorse.report.comparison import EXACT_WITH_TIES, compare, signed_rank
from gifthorse.report.sheet import Sheet
from records import BADNETS, PRUNING, SHRINKPAD, STRIP, record, repaired

FIRST = [0.30, 0.42, 0.25, 0.61, 0.35, 0.50]
SECOND = [0.10, 0.32, 0.30, 0.20, 0.05, 0.25]


def cells(asrs: Sequence[float], defense: dict[str, str], **changes: object) -> list[Record]:
    return [repaired(asr, seed, defense=defense, **changes) for seed, asr in enumerate(asrs)]


def texts(sheet: Sheet) -> list[list[str]]:
    return [[*line.labels, *(each.text for each in line.entries)] for line in sheet.lines]


def test_differences_interval_pairs_and_p_are_those_of_scipy() -> None:
    sheet = compare(cells(FIRST, SHRINKPAD), cells(SECOND, PRUNING))
    (number,) = sheet.numbers()
    differences = np.subtract(FIRST, SECOND)
    low, high = stats.t.interval(0.95, 5, loc=differences.mean(), scale=stats.sem(differences))
    assert number["n"] == 6
    assert number["difference"] == pytest.approx(differences.mean())
    assert (number["low"], number["high"]) == (pytest.approx(low), pytest.approx(high))
    assert number["p"] == pytest.approx(stats.wilcoxon(FIRST, SECOND, method="exact").pvalue) == 0.0625
    assert number["test"] == "Wilcoxon signed-rank test, exact"
    assert [head.name for head in sheet.heads] == [
        "shrinkpad",
        "fine_pruning",
        "difference",
        "95 % interval",
        "n pairs",
        "p",
    ]
    assert texts(sheet) == [
        ["ASR (%) ↓", "40.5", "20.3", "20.2", f"[{100 * low:.1f}, {100 * high:.1f}]", "6", "0.0625"]
    ]
    assert any("Wilcoxon signed-rank test, exact, two-sided" in remark for remark in sheet.remarks)


def test_the_order_of_the_defenses_is_the_sign() -> None:
    (number,) = compare(cells(SECOND, PRUNING), cells(FIRST, SHRINKPAD)).numbers()
    assert number["difference"] == pytest.approx(-np.subtract(FIRST, SECOND).mean())
    assert (number["first"], number["second"]) == ("fine_pruning", "shrinkpad")


def exact_p(differences: Sequence[float]) -> float:
    """By definition: the share of all signs that give a sum of ranks as far from zero."""
    found = np.array([each for each in differences if each])
    ranks = stats.rankdata(abs(found))
    sums = [abs((ranks * signs).sum()) for signs in itertools.product((-1, 1), repeat=len(found))]
    return float(np.mean(np.array(sums) >= abs((ranks * np.sign(found)).sum()) - 1e-9))


@given(st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=9))
def test_p_of_few_pairs_is_exact_even_with_ties_and_zeros(differences: list[float]) -> None:
    p, name = signed_rank(differences)
    assert p == pytest.approx(exact_p(differences) if any(differences) else 1)
    assert name == "Wilcoxon signed-rank test, exact"


def test_accuracies_that_differ_by_as_many_images_are_ties() -> None:
    """As floating-point numbers the differences of these pairs are not all of one size."""
    pairs = [(312, 310), (314, 312), (391, 393), (358, 360), (392, 390), (324, 326), (349, 351), (339, 337), (300, 300)]
    differences = [first / 400 - second / 400 for first, second in pairs]
    assert len({abs(each) for each in differences}) > 2
    assert signed_rank(differences) == (1.0, "Wilcoxon signed-rank test, exact")
    assert signed_rank([0.3 - 0.1 - 0.2, 1.0])[0] == signed_rank([0.0, 1.0])[0]


def test_what_is_not_exact_says_so() -> None:
    ties = [1.0] * (EXACT_WITH_TIES + 1)
    assert signed_rank(ties)[1] == "Wilcoxon signed-rank test, normal approximation"
    assert signed_rank(ties[:-1]) == (2 / 2**EXACT_WITH_TIES, "Wilcoxon signed-rank test, exact")
    assert signed_rank(range(1, 51))[1].endswith("exact")
    assert signed_rank(range(1, 52))[1].endswith("normal approximation")


def test_too_few_pairs_for_any_p_to_be_small_are_marked() -> None:
    sheet = compare(cells(FIRST[:4], SHRINKPAD), cells(SECOND[:4], PRUNING))
    assert sheet.lines[0].entries[-1].notes == ("with so few pairs (n = 4) no p is under 0.125",)
    one = compare(cells(FIRST[:1], SHRINKPAD), cells(SECOND[:1], PRUNING))
    assert one.lines[0].entries[3].text == "–"
    assert one.lines[0].entries[3].notes == ("one pair has no interval",)


def test_only_models_that_both_met_and_whose_attack_took_count() -> None:
    weak = {"metrics": {"attack.valid": False, "defense.asr": 0.1}}
    first = [*cells(FIRST, SHRINKPAD), repaired(0.9, 7, defense=SHRINKPAD)]
    second = [*cells(SECOND[:5], PRUNING), record(seed=5, defense=PRUNING, **weak)]
    first[5] = record(seed=5, defense=SHRINKPAD, **weak)
    sheet = compare(first, second)
    assert sheet.numbers()[0]["n"] == 5
    assert "models that only shrinkpad met: 1" in sheet.remarks
    assert "models left out because the attack did not take: 1" in sheet.remarks
    assert not any("fine_pruning met" in remark for remark in sheet.remarks)


@pytest.mark.parametrize(
    "change",
    [{"profile": "paper"}, {"data_digest": "e" * 24}, {"model": {"name": "other"}}, {"attack": {"name": "esb"}}],
    ids=lambda change: next(iter(change)),
)
def test_other_models_are_no_pairs(change: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="shrinkpad and fine_pruning met no model in common"):
        compare(cells(FIRST, SHRINKPAD), cells(SECOND, PRUNING, **change))


def test_two_trojans_of_equal_settings_are_no_pair() -> None:
    """As after the attack's code was edited."""
    with pytest.raises(RequestError, match="met no model in common"):
        compare(
            cells(FIRST, SHRINKPAD, artifacts={"trojan": "old"}), cells(SECOND, PRUNING, artifacts={"trojan": "new"})
        )
    assert compare(cells(FIRST, SHRINKPAD), cells(SECOND, PRUNING, artifacts={"trojan": "x"})).numbers()[0]["n"] == 6


def test_settings_are_never_pooled_and_attacks_only_unless_told_apart() -> None:
    def both(defense: dict[str, str], asrs: Sequence[float]) -> list[Record]:
        other = BADNETS | {"poison_rate": 0.2}
        return cells(asrs, defense) + cells(asrs, defense, attack=other) + cells(asrs, defense, profile="paper")

    pooled = compare(both(SHRINKPAD, FIRST), both(PRUNING, SECOND))
    assert (pooled.stubs, [line[0] for line in texts(pooled)]) == (("profile", "metric"), ["laptop", "paper"])
    assert [number["n"] for number in pooled.numbers()] == [12, 6]
    assert "p is not adjusted for the 2 tests of this table" in pooled.remarks
    apart = compare(both(SHRINKPAD, FIRST), both(PRUNING, SECOND), rows="attack.poison_rate")
    assert [line[:2] for line in texts(apart)] == [["laptop", "0.1"], ["laptop", "0.2"], ["paper", "0.1"]]


def test_several_metrics_are_several_lines() -> None:
    sheet = compare(cells(FIRST, SHRINKPAD), cells(SECOND, PRUNING), ["defense.asr", "defense.acc"])
    assert [line[0] for line in texts(sheet)] == ["ASR (%) ↓", "Accuracy (%) ↑"]
    assert texts(sheet)[1][3:] == ["0.0", "[0.0, 0.0]", "6", "1.0000"]


def test_defenses_of_two_kinds_need_a_metric() -> None:
    screens = [record(seed=seed, defense=STRIP, metrics={"defense.auroc": 0.9}) for seed in range(3)]
    with pytest.raises(
        RequestError, match=r"judged by defense\.asr, the other by defense\.auroc: name a metric of both"
    ):
        compare(cells(FIRST, SHRINKPAD), screens)
    sheet = compare(cells(FIRST, SHRINKPAD), screens, ["defense.auroc"])
    assert sheet.numbers()[0]["n"] == 0
    assert sheet.lines[0].entries[0].notes == ("no model met both",)


def test_what_is_meant_has_to_be_one_defense_and_another() -> None:
    mixed = [*cells(FIRST, SHRINKPAD), *cells(FIRST, SHRINKPAD | {"shrink": "3"})]
    with pytest.raises(RequestError, match=r"2 defenses are meant, say which: shrinkpad, shrinkpad\[shrink="):
        compare(mixed, cells(SECOND, PRUNING))
    with pytest.raises(RequestError, match="shrinkpad cannot be compared with itself"):
        compare(cells(FIRST, SHRINKPAD), cells(SECOND, SHRINKPAD))


# ---- attacks and other parts of the settings


def planted(asrs: Sequence[float], attack: dict[str, object], **changes: Any) -> list[Record]:
    return [
        record(attack=attack, seed=seed, metrics={"attack.asr": asr, "attack.cad": 1 - asr, "attack.valid": asr > 0.8},
               artifacts={"trojan": f"{attack}{seed}"}, **changes)
        for seed, asr in enumerate(asrs)
    ]  # fmt: skip


SCRATCH = BADNETS | {"origin": "scratch"}


def test_two_attacks_are_compared_seed_by_seed_whether_or_not_they_took() -> None:
    first, second = planted(FIRST, SCRATCH), planted(SECOND, BADNETS)
    sheet = compare(first, second[::-1], part="attack")
    differences = np.subtract(FIRST, SECOND)
    low, high = stats.t.interval(0.95, 5, loc=differences.mean(), scale=stats.sem(differences))
    success, drop = sheet.numbers()
    assert (success["metric"], drop["metric"]) == ("attack.asr", "attack.cad")
    assert (success["n"], success["difference"]) == (6, pytest.approx(differences.mean()))
    assert (success["low"], success["high"]) == (pytest.approx(low), pytest.approx(high))
    assert drop["difference"] == pytest.approx(-differences.mean())
    assert texts(sheet)[0] == [
        "ASR (%) ↑",
        "40.5",
        "20.3",
        "20.2",
        f"[{100 * low:.1f}, {100 * high:.1f}]",
        "6",
        "0.0625",
    ]
    assert sheet.caption.startswith("badnets[origin=scratch] and badnets with the same seeds; dataset digits")
    assert "seed by seed" in sheet.remarks[0]


def test_a_trojan_counts_once_whatever_followed_it_and_seeds_without_a_counterpart_are_said() -> None:
    first, second = planted(FIRST, SCRATCH), planted(SECOND[:4], BADNETS)
    followed = [
        each.model_copy(update={"id": f"{each.id}x", "defense": STRIP, "family": "filtering"}) for each in second
    ]
    sheet = compare(first, [*second, *followed], part="attack")
    assert [number["n"] for number in sheet.numbers()] == [4, 4]
    assert "seeds that only badnets[origin=scratch] has: 2" in sheet.remarks
    assert sheet.stubs == ("metric",)


def test_what_a_defense_makes_of_two_attacks_is_compared_defense_by_defense_where_both_took() -> None:
    both = [
        repaired(asr - 0.1 * (attack is BADNETS), seed, defense=defense, attack=attack)
        for attack in (SCRATCH, BADNETS)
        for defense in (SHRINKPAD, PRUNING)
        for seed, asr in enumerate(FIRST)
    ]
    weak = [
        repaired(0.0, 7, attack=SCRATCH),
        repaired(0.0, 7, attack=BADNETS, metrics={"attack.valid": False, "defense.asr": 0.0}),
    ]
    alone = planted([0.9], SCRATCH)
    first, second = (
        [each for each in [*both, *weak, *alone] if each.attack == attack] for attack in (SCRATCH, BADNETS)
    )
    sheet = compare(first, second, ["defense.asr"], part="attack")
    assert sheet.stubs == ("defense", "metric")
    assert [(number["defense"], number["n"]) for number in sheet.numbers()] == [("shrinkpad", 6), ("fine_pruning", 6)]
    assert [number["difference"] for number in sheet.numbers()] == [pytest.approx(0.1)] * 2
    assert "seeds left out because the attack did not take: 1" in sheet.remarks
    with pytest.raises(RequestError, match=r"attack\.asr, defense\.asr are of different cells"):
        compare(first, second, ["attack.asr", "defense.asr"], part="attack")


def test_recipes_and_networks_are_compared_attack_by_attack() -> None:
    imc = {"name": "imc", "target": 1}
    for part, other in (("training", {"name": "adversarial", "epochs": 20}), ("model", {"name": "vgg13", "width": 16})):
        first = [*planted(FIRST, BADNETS), *planted(FIRST, imc)]
        second = [*planted(SECOND, BADNETS, **{part: other}), *planted(SECOND, imc, **{part: other})]
        sheet = compare(first, second, ["attack.asr"], part=part)
        assert [line[:2] for line in texts(sheet)] == [["badnets", "ASR (%) ↑"], ["imc", "ASR (%) ↑"]]
        assert [number["n"] for number in sheet.numbers()] == [6, 6]


def test_what_cannot_be_compared_is_refused_in_a_sentence() -> None:
    mixed = [*planted(FIRST, SCRATCH), *planted(FIRST, BADNETS | {"poison_rate": 0.2})]
    with pytest.raises(RequestError, match="2 attacks are meant, say which: badnets"):
        compare(mixed, planted(SECOND, BADNETS), part="attack")
    with pytest.raises(RequestError, match="have no seed and settings in common"):
        compare(planted(FIRST, SCRATCH), planted(SECOND, BADNETS, profile="paper"), part="attack")
    with pytest.raises(RequestError, match=r"--rows attack\.origin tells apart what is compared"):
        compare(planted(FIRST, SCRATCH), planted(SECOND, BADNETS), rows="attack.origin", part="attack")


def test_what_was_looked_into_is_not_compared_as_if_it_were_judged() -> None:
    def with_analyses(asrs: Sequence[float], defense: dict[str, str]) -> list[Record]:
        judged = cells(asrs, defense)
        looked = {"analysis": {"name": "nsr"}, "metrics": {"analysis.nsr": 0.3}}
        return [*(each.model_copy(update={"id": f"{each.id}a", **looked}) for each in judged), *judged]

    sheet = compare(with_analyses(FIRST, SHRINKPAD), with_analyses(SECOND, PRUNING))
    assert texts(sheet) == texts(compare(cells(FIRST, SHRINKPAD), cells(SECOND, PRUNING)))
