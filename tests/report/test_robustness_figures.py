"""Maps of what a defense does by trigger and architecture: every record in its square, no hole silent."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from gifthorse.core.record import Record
from gifthorse.report.drawings import drawings
from gifthorse.report.drawings.material import Material
from gifthorse.report.style import styled
from records import BADNETS, STRIP, record, repaired

IMC = {"name": "imc", "target": 1, "poison_rate": 0.1}
NETS = {name: {"name": name, "width": 16} for name in ("small_cnn", "vgg13", "resnet18")}


def cell(asr: float, size: int, transparency: float, attack: dict[str, Any] = BADNETS, **changes: Any) -> Record:
    return repaired(asr, attack=attack | {"trigger_size": size, "transparency": transparency}, **changes)


def grid() -> list[Record]:
    """Every setting on every network, with another number each."""
    return [
        cell(0.1 * size + transparency / 10 + 0.01 * place + (0.05 if attack is IMC else 0), size, transparency,
             attack, model=model)
        for place, model in enumerate(NETS.values())
        for attack in (BADNETS, IMC)
        for size in (3, 6)
        for transparency in (0.0, 0.8)
    ]  # fmt: skip


def drawn(records: Sequence[Record], *metrics: str) -> dict[str, Figure]:
    material = Material(records, (), {each.id for each in records}, lambda _: {}, metrics)
    with styled():
        found = {drawing.name: drawing.draw() for drawing in drawings(material, ["robustness"])}
    return {name: figure for name, figure in found.items() if figure is not None}


def shades(figure: Figure) -> np.ndarray:
    """Return the numbers of all panels, row by row."""
    meshes = [each for axes in figure.axes for each in axes.collections if isinstance(each, QuadMesh)]
    found: list[np.ndarray] = [np.ma.asarray(mesh.get_array()).filled(-1) for mesh in meshes]
    # The scale of shades is one as well.
    return np.stack([each for each in found if each.size < 50])


def test_every_setting_has_its_square_in_the_panel_of_its_attack_and_network() -> None:
    ((name, figure),) = drawn(grid()).items()
    assert name == "robustness-digits-laptop-shrinkpad-asr"
    found = shades(figure).reshape(2, 3, 2, 2)
    networks = sorted(NETS)
    for down, attack in enumerate(("badnets", "imc")):
        for right, network in enumerate(networks):
            for row, transparency in enumerate((0.0, 0.8)):
                for column, size in enumerate((3, 6)):
                    (value,) = (
                        each.metrics["defense.asr"]
                        for each in grid()
                        if (each.attack["name"], each.model["name"]) == (attack, network)
                        and (each.attack["transparency"], each.attack["trigger_size"]) == (transparency, size)
                    )
                    assert found[down, right, row, column] == pytest.approx(100 * value)
    panels = figure.axes[:6]
    assert [axes.get_title() for axes in panels] == [*networks, "", "", ""]
    assert [axes.get_ylabel() for axes in panels[::3]] == ["badnets\ntransparency", "imc\ntransparency"]
    assert [axes.get_xlabel() for axes in panels] == ["", "", "", *["trigger_size"] * 3]
    assert "n = 1 seed of each square" in figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ")


def test_the_order_of_records_does_not_matter() -> None:
    one, other = (next(iter(drawn(records).values())) for records in (grid(), grid()[::-1]))
    assert shades(one) == pytest.approx(shades(other))


def test_seeds_are_averaged_and_holes_and_doubts_are_marked() -> None:
    records = [
        cell(0.2, 3, 0.0),
        cell(0.4, 3, 0.0, seed=1),
        record(
            defense={"name": "shrinkpad"}, attack=BADNETS | {"trigger_size": 6, "transparency": 0.0}, status="failed",
            reason="boom",
        ),
        cell(0.9, 3, 0.8, metrics={"attack.valid": False, "defense.asr": 0.9}),
    ]  # fmt: skip
    (figure,) = drawn(records).values()
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert texts == {(0.5, 0.5): "30.0", (1.5, 0.5): "failed", (0.5, 1.5): "90.0†", (1.5, 1.5): "not run"}
    note = " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split())
    assert "n = 1 to 2 seeds of each square, mean" in note
    assert "† the attack did not take" in note


def test_one_field_on_several_networks_is_enough_and_on_one_network_is_a_curve() -> None:
    several = [cell(0.1, size, 0.0, model=model) for size in (3, 6) for model in NETS.values()]
    (figure,) = drawn(several).values()
    assert shades(figure).shape == (3, 1, 2)
    assert drawn([each for each in several if each.model["name"] == "vgg13"]) == {}
    assert drawn([cell(0.1, 3, 0.0, model=model) for model in NETS.values()]) == {}
    targets = [
        repaired(0.1, attack=BADNETS | {"target": each}, model=model) for each in (1, 2) for model in NETS.values()
    ]
    assert drawn(targets) == {}


def test_each_defense_has_a_file_and_further_fields_tell_attacks_apart() -> None:
    screens = [
        record(defense=STRIP, attack=each.attack, model=each.model, metrics={"defense.auroc": 0.9}) for each in grid()
    ]
    names = {"robustness-digits-laptop-shrinkpad-asr", "robustness-digits-laptop-strip-auroc"}
    assert set(drawn([*grid(), *screens])) == names
    assert set(drawn([*grid(), *screens], "defense.acc")) == {"robustness-digits-laptop-shrinkpad-acc"}
    rates = [cell(0.1, size, alpha, BADNETS | {"poison_rate": rate})
             for size in (3, 6) for alpha in (0.0, 0.8) for rate in (0.1, 0.2)]  # fmt: skip
    (figure,) = drawn(rates).values()
    labels = [axes.get_ylabel() for axes in figure.axes[:2]]
    assert [" ".join(label.replace("\n", "").split()) for label in labels] == [
        "badnets[poison_rate=0.1]transparency",
        "badnets[poison_rate=0.2]transparency",
    ]
