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
from gifthorse.report.leverage import MOST_DROP, curve_of, leverage_table, leverages
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
            metrics={"attack.asr": asr, "attack.cad": cad, "attack.valid": asr >= 0.8},
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
    assert curve.raised == 0


@pytest.mark.parametrize(
    ("success", "drops", "area"),
    [
        ([0.0, 0.5, 1.0], [0.0, 0.01, 0.02], 0.5),
        ([0.0, 0.9, 1.0], [0.0, 0.001, 0.02], 0.9 * 0.05 / 2 + 0.1 * 1.05 / 2),
        ([0.0, 0.1, 1.0], [-0.01, 0.008, 0.01], 0.1 * 0.9 / 2 + 0.9 * 1.9 / 2),
        ([0.0, 1.0, 1.0], [0.0, 0.01, 0.02], 0.25),
    ],
    ids=["diagonal", "below it", "above it", "equal success"],
)
def test_a_curve_below_the_diagonal_has_less_than_half(success: list[float], drops: list[float], area: float) -> None:
    assert curve_of(success, drops).auc == pytest.approx(area)


def test_cad_that_falls_again_stays_where_it_was() -> None:
    curve = curve_of([0.0, 0.25, 0.5, 1.0], [0.0, 0.01, 0.004, 0.02])
    assert curve.points[:, 1].tolist() == [0, 0.5, 0.5, 1]
    assert curve.raised == 1
    assert curve.auc == pytest.approx(0.25 * 0.25 + 0.25 * 0.5 + 0.5 * 0.75)


@pytest.mark.parametrize(
    ("success", "drops", "reason"),
    [
        ([0.1, 0.9], [0.0, 0.1], "needs 3 settings or more, here are 2"),
        ([1.0, 1.0, 1.0], [0.0, 0.1, 0.2], "ASR is the same"),
        ([0.1, 0.5, 0.9], [0.01, 0.01, 0.01], "CAD is the same"),
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
    if len({*success}) < 2 or len({*drops}) < 2:
        return
    area = curve_of(success, drops).auc
    mixed = random.sample(points, len(points))
    assert -1e-9 <= area <= 1 + 1e-9
    assert curve_of([7 + 3 * asr for asr, _ in mixed], [0.1 * cad - 1 for _, cad in mixed]).auc == pytest.approx(area)


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
    assert sheet.lines[1].entries[0].notes == ("CAD is the same at every setting",)
    assert "dataset digits" in sheet.caption
    numbers = json.loads(WRITERS["json"](sheet))["numbers"]
    assert numbers[0]["auc"] == pytest.approx(3 / 8)
    assert numbers[0]["values"] == [0.01, 0.1, 0.3]
    assert numbers[1]["auc"] is None
    assert all(WRITERS[form](sheet) for form in WRITERS)


def test_an_area_of_a_handful_of_images_is_marked() -> None:
    few = [each.model_copy(update={"counts": {"attack.cad": 400}}) for each in swept(BENT)]
    entry = leverage_table(few, "attack.poison_rate").lines[0].entries[0]
    assert entry.notes == ("CAD changes by 8 of 400 test images: mostly chance",)
    assert leverage_table(swept(BENT), "attack.poison_rate").lines[0].entries[0].notes == ()


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
