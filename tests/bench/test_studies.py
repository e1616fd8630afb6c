"""The grid files that come with gifthorse: each asks for what can be carried out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gifthorse.attacks.data.random_backdoor import RandomBackdoor
from gifthorse.bench.cell import resolve
from gifthorse.bench.study import StudyFile, expand
from gifthorse.cli.commands import listing
from gifthorse.core.seeds import derive
from gifthorse.planting.patches import PatchAttack
from gifthorse.triggers.patch import Patch
from worlds import noise_task

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


def test_there_are_studies() -> None:
    assert len(STUDIES) > 10


def requests(name: str) -> list[dict[str, Any]]:
    """What the study of that name asks for."""
    path = next(each for each in STUDIES if each.stem == name)
    return [dict(each) for each in expand(StudyFile.read(path.read_text(), path.name), listing()).cells]


def test_every_seed_of_random_squares_has_a_square_of_its_own() -> None:
    cells = [each for each in requests("random_squares") if each["defense"] in (None, "none")]
    task = noise_task((1, 16, 16))
    patterns = set()
    for each in cells:
        attack = resolve(dataset="digits", attack=each["attack"]).attack
        assert isinstance(attack, PatchAttack)
        trigger = attack.initial_trigger(task, derive(each["seed"], attack.name, "trigger"))
        assert isinstance(trigger, Patch)
        assert trigger.mask[0, -3:, -3:].sum() == trigger.mask.sum() == 9
        patterns.add(tuple(trigger.pattern[trigger.mask.bool()].tolist()))
    assert len(patterns) == len(cells) == 10


def test_every_class_is_the_target_once() -> None:
    targets = [resolve(dataset="digits", attack=each["attack"]).attack for each in requests("target_classes")]
    assert sorted(attack.to_dict()["target"] for attack in targets) == list(range(10))


def test_poison_rates_go_from_half_a_percent_to_a_fifth_for_each_attack() -> None:
    rates: dict[str, set[float]] = {}
    for each in requests("poison_rates"):
        attack = resolve(dataset="digits", attack=each["attack"]).attack.to_dict()
        rates.setdefault(attack["name"], set()).add(attack["poison_rate"])
    assert len(rates) == 4
    assert all(found == {0.005, 0.01, 0.02, 0.05, 0.1, 0.2} for found in rates.values())


def test_leverage_sweeps_the_poison_rate_of_all_the_papers_attacks_that_have_one() -> None:
    rates: dict[str, set[float]] = {}
    for each in requests("leverage"):
        attack = resolve(dataset="digits", attack=each["attack"]).attack.to_dict()
        rates.setdefault(attack["name"], set()).add(attack["poison_rate"])
    eight = {resolve(dataset="digits", attack=each["attack"]).attack for each in requests("eight_attacks")}
    assert set(rates) == {attack.name for attack in eight if "poison_rate" in attack.to_dict()}
    assert len(rates) == 7
    assert all(len(found) == 8 and (min(found), max(found)) == (0.001, 0.3) for found in rates.values())


def test_robustness_maps_cross_two_sizes_with_two_transparencies_on_three_architectures() -> None:
    found = {
        (each["model"], attack["name"], attack["trigger_size"], attack["transparency"])
        for each in requests("robustness_maps")
        for attack in [resolve(dataset="digits", model=each["model"], attack=each["attack"]).attack.to_dict()]
    }
    models, attacks, sizes, transparencies = map(set, zip(*found, strict=True))
    assert len(found) == len(models) * len(attacks) * len(sizes) * len(transparencies)
    assert (len(models), len(sizes), len(transparencies)) == (3, 2, 2)


def test_static_backdoors_stand_beside_the_dynamic_ones_with_their_size_rate_and_a_place_of_theirs() -> None:
    task = noise_task((1, 28, 28))
    attacks = [resolve(dataset="digits", attack=each["attack"]).attack for each in requests("dynamic")]
    (static,) = {attack for attack in attacks if isinstance(attack, PatchAttack)}
    reference = next(attack for attack in attacks if isinstance(attack, RandomBackdoor))
    assert static.to_dict()["poison_rate"] == reference.poison_rate
    assert static.to_dict()["origin"] == reference.origin
    pixels = torch.full((50, *task.train.shape), 0.5)
    fixed = static.make_trigger(task, task.build(0), 0).stamp(pixels, torch.Generator()) != pixels
    assert (fixed == fixed[0]).all()
    moving = reference.make_trigger(task, task.build(0), 0).stamp(pixels, torch.Generator())
    shown = [tuple(map(int, box.nonzero().aminmax(dim=0).min)) for box in (moving != pixels)[:, 0]]
    corner = fixed[0, 0].nonzero().aminmax(dim=0)
    assert len({*shown}) == 4
    assert tuple(map(int, corner.min)) in shown
    assert (corner.max - corner.min + 1).tolist() == [reference.trigger_size] * 2


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_asks_for_cells_that_there_are(path: Path) -> None:
    asked = expand(StudyFile.read(path.read_text(), path.name), listing())
    assert asked.cells or asked.populations
    requests = [*asked.cells, *(each.request for each in asked.populations)]
    for request in {(each["attack"], each["defense"], each["downstream"]): each for each in requests}.values():
        resolve(**{key: value for key, value in request.items() if key != "vary_target"})
