"""What success costs in clean accuracy: areas known by hand, over whatever records of a sweep there are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.record import Record
from gifthorse.report.drawings import drawings
from gifthorse.report.drawings.material import Material
from gifthorse.report.intervals import mean_interval
from gifthorse.report.leverage import (
    MOST_DROP,
    curve_of,
    leverage_table,
    leverages,
    noise_of_images,
    noise_over_seeds,
)
from gifthorse.report.settings import Axis
from gifthorse.report.sheet import WRITERS
from gifthorse.report.style import styled
from records import BADNETS, STRIP, bare

RATE = Axis("attack.poison_rate")
Points = Mapping[float, tuple[float, float]]
"""ASR and CAD by poison rate."""

BENT: Points = {0.01: (0.2, 0.0), 0.1: (0.6, 0.005), 0.3: (1.0, 0.02)}
"""Normalised (0, 0), (1/2, 1/4), (1, 1): an area of 1/16 + 5/16."""


def swept(points: Points, seed: int = 0, **changes: Any) -> list[Record]:
    attack = changes.pop("attack", BADNETS)
    return [
        bare(
            attack=attack | {"poison_rate": rate},
            seed=seed,
            metrics={"attack.asr": asr, "attack.cad": cad, "attack.acc": 0.9 - cad, "attack.valid": asr >= 0.8},
            counts={"attack.cad": 10_000},
            **changes,
        )
        for rate, (asr, cad) in points.items()
    ]


def only(records: Sequence[Record]) -> Any:
    (found,) = leverages(records, RATE)
    return found


# ---- the curve


def test_the_area_of_three_points_is_that_by_hand() -> None:
    curve = curve_of([0.2, 0.6, 1.0], [0.0, 0.005, 0.02])
    assert curve.points.tolist() == [[0, 0], [pytest.approx(0.5), 0.25], [1, 1]]
    assert curve.auc == pytest.approx(3 / 8)
    assert curve.growth == pytest.approx(0.02)
    assert curve.moved == 0


@pytest.mark.parametrize(
    ("success", "drops", "area"),
    [
        ([0.0, 0.5, 1.0], [0.0, 0.01, 0.02], 0.5),
        ([0.0, 0.9, 1.0], [0.0, 0.001, 0.02], 0.9 * 0.05 / 2 + 0.1 * 1.05 / 2),
        ([0.0, 0.1, 1.0], [-0.01, 0.008, 0.01], 0.1 * 0.9 / 2 + 0.9 * 1.9 / 2),
        ([0.0, 0.5, 1.0, 1.0], [0.0, 0.01, 0.02, 0.06], 0.5 * 0.25 / 2 + 0.5 * 1.25 / 2),
    ],
    ids=["diagonal", "below it", "above it", "equal success"],
)
def test_a_curve_below_the_diagonal_has_less_than_half(success: list[float], drops: list[float], area: float) -> None:
    assert curve_of(success, drops).auc == pytest.approx(area)


def test_cad_that_falls_again_is_the_mean_of_where_it_did() -> None:
    curve = curve_of([0.0, 0.25, 0.5, 1.0], [0.0, 0.012, 0.004, 0.02])
    assert curve.points[:, 1] == pytest.approx([0, 0.4, 0.4, 1])
    assert curve.moved == 2
    assert curve.auc == pytest.approx(0.25 * 0.2 + 0.25 * 0.4 + 0.5 * 0.7)
    ends = curve_of([0.0, 0.25, 0.5, 1.0], [0.002, 0.0, 0.021, 0.019])
    assert ends.points[:, 1] == pytest.approx([0, 0, 1, 1])
    assert ends.growth == pytest.approx(0.019)


@pytest.mark.parametrize(
    ("success", "drops", "reason"),
    [
        ([0.1, 0.9], [0.0, 0.1], "needs 3 settings or more, here are 2"),
        ([1.0, 0.9, 1.0], [0.0, 0.1, 0.2], "needs 3 values of ASR or more, here are 2"),
        ([0.1, 0.5, 0.9], [0.01, 0.01, 0.01], "CAD does not grow with ASR"),
        ([0.1, 0.5, 0.9], [0.03, 0.02, 0.01], "CAD does not grow with ASR"),
    ],
)
def test_what_is_no_curve_says_why(success: list[float], drops: list[float], reason: str) -> None:
    with pytest.raises(NotApplicableError, match=reason):
        curve_of(success, drops)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(-50, 50)), min_size=3, max_size=12), st.randoms())
def test_neither_order_nor_scale_nor_origin_matters_and_the_area_is_a_share(
    points: list[tuple[int, int]], random: Any
) -> None:
    success, drops = zip(*points, strict=True)
    try:
        area = curve_of(success, drops).auc
    except NotApplicableError:
        return
    mixed = random.sample(points, len(points))
    assert -1e-9 <= area <= 1 + 1e-9
    assert curve_of([7 + 3 * asr for asr, _ in mixed], [0.1 * cad - 1 for _, cad in mixed]).auc == pytest.approx(area)


# ---- what is chance


def measured(drops: np.ndarray, images: int, random: np.random.Generator, seeds: int) -> list[Record]:
    """Return records of an attack that drops accuracy by so much at its settings; of its images so many are right.

    Images of one seed are another draw each time; its benign twin is one for all settings.
    """
    asrs = np.linspace(0.1, 1, len(drops))
    found = []
    for seed in range(seeds):
        twin = random.binomial(images, 0.9) / images
        cads = twin - random.binomial(images, 0.9 - drops) / images
        found += swept({rate: (float(asr), float(cad)) for rate, (asr, cad) in enumerate(zip(asrs, cads, strict=True))},
                       seed=seed)  # fmt: skip
    return found


def simulated(drops: np.ndarray, seeds: int, repeats: int = 60) -> list[Any]:
    random = np.random.default_rng(0)
    return [only(measured(drops, 10_000, random, seeds)) for _ in range(repeats)]


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_attack_that_costs_nothing_has_no_area_nor_interval_but_a_mark(seeds: int) -> None:
    found = simulated(np.zeros(8), seeds)
    marked = [each for each in found if each.area is None]
    assert len(marked) >= 0.9 * len(found)
    assert all(each.interval is None and each.by_seed == () for each in marked)
    assert {each.reason.partition(":")[0] for each in marked} <= {"mostly chance", "CAD does not grow with ASR"}


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_attack_that_costs_three_points_has_about_its_true_area(seeds: int) -> None:
    """CAD that grows with the square of ASR, of whose trapezoids the area is known."""
    share = np.linspace(0, 1, 8)
    found = simulated(0.03 * share**2 - 0.015, seeds)
    areas = [each.area for each in found]
    assert None not in areas
    truth = np.trapezoid(share**2, share)
    assert truth == pytest.approx(1 / 3, abs=0.01)
    assert np.mean(areas) == pytest.approx(truth, abs=0.03)
    assert np.std(areas) < 0.1


def test_noise_is_what_settings_scatter_over_seeds_but_for_what_a_seed_shares() -> None:
    one, other = np.array([0.0, 0.01, 0.02]), np.array([0.1, 0.112, 0.119])
    # Residuals of a seed: minus and plus 1/6, minus 5/6, 4/6 of a thousandth; 2 degrees of freedom, two seeds.
    residuals = np.array([-1, 5, -4]) / 6 * 1e-3
    deviation = np.sqrt(2 * (residuals**2).sum() / 2)
    assert noise_over_seeds(np.stack([one, other], 1)) == pytest.approx(4.3027 * deviation, rel=1e-4)
    assert noise_of_images(0.9, 10_000) == pytest.approx(2 * np.sqrt(2 * 0.09 / 10_000))


# ---- from records


def test_low_success_is_an_end_of_the_curve_though_the_attack_did_not_take() -> None:
    found = only(swept(BENT))
    assert found.values == (0.01, 0.1, 0.3)
    assert found.curve.auc == pytest.approx(3 / 8)
    assert (found.attack, found.seeds, found.by_seed) == ("badnets", (0,), (pytest.approx(3 / 8),))
    assert found.interval is None


def test_means_over_seeds_make_the_curve_and_each_seed_has_its_own_area() -> None:
    other: Points = {0.01: (0.4, 0.0), 0.1: (0.8, 0.015), 0.3: (1.0, 0.02)}
    found = only([*swept(BENT), *swept(other, seed=1), *swept({0.01: (0.3, 0.0)}, seed=2)])
    assert found.success == pytest.approx((0.3, 0.7, 1.0))
    assert found.drops == pytest.approx((0.0, 0.01, 0.02))
    middle = 0.4 / 0.7
    assert found.curve.auc == pytest.approx(middle * 0.25 + (1 - middle) * 0.75)
    second = (2 / 3) * 0.375 + (1 / 3) * 0.875
    assert found.by_seed == pytest.approx((3 / 8, second))
    assert found.interval == pytest.approx(mean_interval([3 / 8, second]))
    assert found.seeds == (0, 1, 2)


def test_rates_that_cost_more_than_the_bound_are_left_out_and_said() -> None:
    found = only(swept({**BENT, 0.5: (1.0, MOST_DROP + 0.001), 0.4: (1.0, MOST_DROP)}))
    assert (found.values, found.left_out) == ((0.01, 0.1, 0.3, 0.4), (0.5,))
    sheet = leverage_table(swept({**BENT, 0.5: (1.0, 0.2)}), "attack.poison_rate")
    assert "left out, as CAD is over 3.0 points: badnets 0.5" in sheet.remarks
    short = only(swept({0.01: (0.1, 0.0), 0.1: (0.9, 0.01), 0.3: (1.0, 0.2)}))
    assert short.curve is None
    assert short.reason == "a curve needs 3 settings or more, here are 2"
    none = only(swept({rate: (asr, 0.5) for rate, (asr, _) in BENT.items()}))
    assert (none.values, none.curve, none.by_seed) == ((), None, ())


def test_records_of_a_trojan_count_once_in_whatever_order_and_with_whatever_followed() -> None:
    records = swept(BENT)
    followed = [
        each.model_copy(update={"id": f"{each.id}x", "defense": STRIP, "family": "filtering"}) for each in records
    ]
    for given_ones in ([*records, *followed], [*followed[::-1], *records], followed):
        found = only(given_ones)
        assert found.curve.auc == pytest.approx(3 / 8)
        assert found.seeds == (0,)


def test_what_differs_in_anything_else_is_another_curve() -> None:
    steep: Points = {0.01: (0.2, 0.0), 0.1: (0.9, 0.001), 0.3: (1.0, 0.02)}
    records = [
        *swept(BENT),
        *swept(steep, attack={"name": "imc", "target": 1}),
        *swept(BENT, attack=BADNETS | {"trigger_size": 2}),
        *swept(BENT, profile="paper"),
        bare(attack={"name": "none"}, metrics={"attack.asr": 0.0, "attack.cad": 0.0}),
    ]
    found = leverages(records, RATE)
    assert len(found) == 4
    assert {each.attack for each in found} == {"badnets", "badnets[trigger_size=2]", "imc"}
    areas = {each.attack: each.curve.auc for each in found if each.curve}
    assert areas["imc"] < areas["badnets"]


# ---- as a table


def test_a_table_has_a_row_for_each_attack_with_its_area_and_what_it_is_of() -> None:
    flat: Points = {0.01: (0.2, 0.01), 0.1: (0.6, 0.01), 0.3: (1.0, 0.01)}
    records = [*swept(BENT), *swept(BENT, seed=1), *swept(flat, attack={"name": "imc", "target": 1})]
    sheet = leverage_table(records, "attack.poison_rate")
    assert sheet.stubs == ("attack",)
    rows = {line.labels[0]: [entry.text for entry in line.entries] for line in sheet.lines}
    assert rows["badnets"] == ["0.375", "0.375", "[0.375, 0.375]", "20.0 to 100.0", "0.0 to 2.0", "3", "2"]
    assert rows["imc"][:3] == ["–", "–", "–"]
    assert sheet.lines[1].entries[0].notes == ("CAD does not grow with ASR",)
    assert "dataset digits" in sheet.caption
    numbers = json.loads(WRITERS["json"](sheet))["numbers"]
    assert numbers[0]["auc"] == pytest.approx(3 / 8)
    assert numbers[0]["values"] == [0.01, 0.1, 0.3]
    assert numbers[1]["auc"] is None
    assert all(WRITERS[form](sheet) for form in WRITERS)


def few(*seeds: Points) -> list[Record]:
    """Records of 400 test images."""
    records = [each for seed, points in enumerate(seeds) for each in swept(points, seed=seed)]
    return [each.model_copy(update={"counts": {"attack.cad": 400}}) for each in records]


SCATTERED: Points = {0.01: (0.2, 0.01), 0.1: (0.6, 0.005), 0.3: (1.0, 0.0)}


@pytest.mark.parametrize("records", [few(BENT), few(BENT, {**SCATTERED, 0.3: (1.0, 0.01)})], ids=["images", "seeds"])
def test_an_area_that_is_mostly_chance_is_a_mark_in_the_table_and_in_the_legend(records: list[Record]) -> None:
    sheet = leverage_table(records, "attack.poison_rate")
    (line,) = sheet.lines
    assert [entry.text for entry in line.entries[:3]] == ["–", "–", "–"]
    (note,) = line.entries[0].notes
    assert note.startswith("mostly chance: CAD grows by ")
    assert any(each.startswith("mostly chance: ") for each in sheet.remarks)
    assert all("mostly chance" in WRITERS[form](sheet) for form in ("text", "latex", "markdown", "json"))
    (number,) = sheet.numbers()
    assert (number["auc"], number["mean"], number["low"], number["by_seed"]) == (None, None, None, [])
    assert 0 < number["growth"] < number["noise"]
    ((_, figure),) = drawn(records).items()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["badnets: mostly chance"]


def test_an_area_of_more_than_chance_is_not_marked_and_where_nobody_can_tell_that_is_said() -> None:
    sheet = leverage_table(swept(BENT), "attack.poison_rate")
    assert sheet.lines[0].entries[0].notes == ()
    assert not any("chance" in each for each in sheet.remarks)
    uncounted = [each.model_copy(update={"counts": {}}) for each in swept(BENT)]
    (note,) = leverage_table(uncounted, "attack.poison_rate").lines[0].entries[0].notes
    assert note.startswith("how much of it is chance is not known")


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("attack", "is no field that a curve can run along"),
        ("seed", "is no field that a curve can run along"),
        ("attack.poison_rat", "did you mean 'attack.poison_rate'"),
        ("attack.target", "no attack was run at several values of attack.target"),
    ],
)
def test_a_wrong_field_is_an_error_that_helps(column: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        leverage_table(swept(BENT), column)


# ---- as a figure


def drawn(records: Sequence[Record]) -> dict[str, Figure]:
    material = Material(records, (), {each.id for each in records}, lambda _: {})
    with styled():
        found = {drawing.name: drawing.draw() for drawing in drawings(material, ["leverage"])}
    return {name: figure for name, figure in found.items() if figure is not None}


def test_a_figure_has_a_curve_for_each_attack_and_its_area_in_the_legend() -> None:
    steep: Points = {0.01: (0.2, 0.0), 0.1: (0.6, 0.002), 0.3: (1.0, 0.02)}
    other = swept(steep, attack={"name": "imc", "target": 1})
    ((name, figure),) = drawn([*swept(BENT), *swept(steep, seed=1), *other]).items()
    assert name == "leverage-digits-small_cnn"
    (axes,) = figure.axes
    lines = {str(line.get_label()).partition(":")[0]: np.asarray(line.get_xydata()) for line in axes.lines}
    assert lines["imc"] == pytest.approx(np.array([[0, 0], [0.5, 0.1], [1, 1]]))
    assert lines["badnets"] == pytest.approx(np.array([[0, 0], [0.5, 0.175], [1, 1]]))
    assert lines["_"].tolist() == [[0, 0], [1, 1]]
    (legend,) = figure.legends
    low, high = mean_interval([0.375, 0.3]) or (0, 0)
    assert [text.get_text() for text in legend.get_texts()] == [
        f"badnets: AUC 0.34 (0.34 [{max(low, 0):.2f}, {high:.2f}])",
        "imc: AUC 0.30",
    ]
    note = " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split())
    assert "n = 1 to 2 seeds at each of 3 poison rates" in note
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "attack success rate, normalised",
        "clean accuracy drop, normalised",
    )


def test_what_has_no_curve_has_no_figure() -> None:
    assert drawn(swept({0.01: (0.1, 0.0), 0.1: (0.9, 0.01)})) == {}
    assert drawn(swept({0.1: (0.9, 0.01)})) == {}
