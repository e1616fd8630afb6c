"""Patterns and places of the dynamic attacks: what is drawn, from what, and what the networks learn from."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.training.ban import Ban
from gifthorse.attacks.training.cban import CBan
from gifthorse.bench.packing import pack_trojan
from gifthorse.bench.store import Store
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import AllToOne, OnePerCondition
from gifthorse.core.recipe import AdversarialRecipe, StandardRecipe
from gifthorse.core.seeds import derive, image_noise
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.planting.mixing import copies
from gifthorse.training.scratch import train
from gifthorse.triggers.generated_patch import GeneratedPatch
from gifthorse.triggers.noise_patch import NoisePatch
from gifthorse.triggers.placed import PlacedTrigger
from gifthorse.triggers.places import anywhere, bands, center, grid, paste, split
from worlds import noise_images, noise_task

GREY = (1, 12, 12)


def planted(trojan: Trojan) -> PlacedTrigger:
    assert trojan.backdoor is not None
    assert isinstance(trojan.backdoor.trigger, PlacedTrigger)
    return trojan.backdoor.trigger


def carried_out(request: str, task: Task | None = None) -> Trojan:
    task = task or noise_task(GREY)
    return ATTACKS.build(request).run(task, train(task, 0), 0)


def where_changed(trigger: PlacedTrigger, pixels: Tensor, conditions: Tensor) -> set[tuple[int, int]]:
    """The top left corners of what the trigger changed, on grey images that no pattern hides in."""
    changed = (trigger.embed(pixels, torch.Generator().manual_seed(1), conditions) != pixels).any(1)
    found = set()
    for image in changed:
        rows, columns = image.nonzero().unbind(1)
        found.add((int(rows.min()), int(columns.min())))
    return found


def test_an_images_noise_is_uniform_its_own_and_the_same_in_every_batch() -> None:
    pixels = noise_images(400, GREY, 2).floats()
    noise = image_noise(pixels, 3, 50)
    assert noise.shape == (400, 50)
    assert noise.min() >= 0
    assert noise.max() < 1
    counts = torch.histc(noise, 10, 0, 1)
    assert ((counts - 2000).square() / 2000).sum() < 27.9  # χ², 9 degrees of freedom, 0.001
    assert noise.T.corrcoef().fill_diagonal_(0).abs().max() < 0.25
    assert torch.equal(noise[7:8], image_noise(pixels[7:8], 3, 50))
    assert not torch.equal(noise, image_noise(pixels, 4, 50))


def test_four_eight_and_sixteen_locations_lie_on_a_grid_whose_corners_are_the_images() -> None:
    assert grid((1, 28, 20), (5, 5), 4).tolist() == [[0, 0], [0, 15], [23, 0], [23, 15]]
    for count in (8, 16):
        places = grid((1, 28, 28), (5, 5), count)
        assert len(places.unique(dim=0)) == count
        assert places.amin(0).tolist() == [0, 0]
        assert places.amax(0).tolist() == [23, 23]


def test_anywhere_is_every_place_and_the_center_is_the_four_around_it() -> None:
    assert len(anywhere((1, 8, 9), (3, 3)).unique(dim=0)) == 6 * 7
    shown = torch.zeros(8, 8)
    for row, column in center((1, 8, 8), (3, 3)).tolist():
        shown[row : row + 3, column : column + 3] += 1
    assert (shown[1:7, 1:7] == 1).all()
    assert shown.sum() == 36


def test_bands_of_different_targets_never_overlap_and_move_vertically_only() -> None:
    sets = bands((1, 16, 16), (3, 3), 10)
    assert sets.shape == (10, 6, 2)
    covered = torch.zeros(16, 16)
    for places in sets:
        assert len(places[:, 1].unique()) == 1
        assert len(places[:, 0].unique()) == 6
        rows, column = int(places[:, 0].min()), int(places[0, 1])
        covered[rows : int(places[:, 0].max()) + 3, column : column + 3] += 1
    assert covered.max() == 1
    assert sets[0, 0].tolist() == [0, 0]


def test_places_are_dealt_out_to_disjoint_sets_of_one_size() -> None:
    sets = split(grid((1, 12, 12), (2, 2), 16), 5)
    assert sets.shape == (5, 3, 2)
    assert len(sets.flatten(0, 1).unique(dim=0)) == 15


def test_a_pattern_of_its_own_is_pasted_into_every_image_and_rounded_only_there() -> None:
    pixels, places = torch.full((2, 1, 4, 4), 0.123), torch.tensor([[0, 0], [2, 1]])
    patterns = torch.stack([torch.full((1, 2, 2), 0.9), torch.full((1, 2, 2), 0.4)])
    window = torch.ones(1, 2, 2)
    pasted = paste(pixels, patterns, window, places, 0.5)
    expected = pixels.clone()
    expected[0, :, :2, :2] = (0.123 + 0.9) / 2
    expected[1, :, 2:, 1:3] = (0.123 + 0.4) / 2
    torch.testing.assert_close(pasted, expected)
    stamped = paste(pixels, patterns, window, places, 0.5, on_grid=True)
    assert torch.equal(stamped == 0.123, expected == 0.123)
    torch.testing.assert_close(stamped, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    assert torch.equal((stamped[0, 0, 0, 0] * 255).round() / 255, stamped[0, 0, 0, 0])


@pytest.mark.parametrize("random", [None, torch.Generator().manual_seed(0)], ids=["of the image", "drawn"])
def test_every_image_gets_fresh_noise_of_the_wanted_distribution(random: torch.Generator | None) -> None:
    pixels = noise_images(2000, GREY, 2).floats()
    places, nothing = grid(GREY, (5, 5), 4)[None], torch.zeros(2000, dtype=torch.long)
    uniform = NoisePatch(places, (1, 5, 5)).patterns(pixels, nothing, random)
    assert uniform.std(0).min() > 0.27
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert (uniform < 0.1).float().mean() == pytest.approx(0.1, abs=0.01)
    gaussian = NoisePatch(places, (1, 5, 5), 0.0, "gaussian", 0.1).patterns(pixels, nothing, random)
    assert gaussian.std() == pytest.approx(0.1, abs=0.005)
    assert (gaussian < 0.4).float().mean() == pytest.approx(0.159, abs=0.01)
    wide = NoisePatch(places, (1, 5, 5), 0.0, "gaussian", 1.0).patterns(pixels, nothing, random)
    assert wide.min() == 0
    assert wide.max() == 1


def test_each_targets_triggers_lie_in_its_own_locations_or_in_those_that_all_share() -> None:
    pixels = torch.full((300, 1, 12, 12), 0.5)
    apart = planted(carried_out("random_backdoor[target=[1,3],trigger_size=3,locations=4]"))
    found = [where_changed(apart, pixels, torch.full((300,), condition)) for condition in (0, 1)]
    assert found == [{(0, 0), (9, 0)}, {(0, 9), (9, 9)}]
    shared = planted(carried_out("random_backdoor[target=[1,3],trigger_size=3,locations=4,disjoint=false]"))
    corners = {(0, 0), (0, 9), (9, 0), (9, 9)}
    assert [where_changed(shared, pixels, torch.full((300,), condition)) for condition in (0, 1)] == [corners] * 2


@pytest.mark.parametrize("name", ["random_backdoor", "ban"])
def test_several_targets_have_a_band_each_unless_told_otherwise_and_one_has_the_corners(name: str) -> None:
    task = noise_task(GREY)
    several = ATTACKS.build(f"{name}[target=all,trigger_size=3]")
    assert isinstance(several.goal(task), OnePerCondition)
    assert torch.equal(several.places(task), bands(GREY, (3, 3), 4))  # type: ignore[attr-defined]
    one = ATTACKS.build(name)
    assert isinstance(one.goal(task), AllToOne)
    assert torch.equal(one.places(task), grid(GREY, (5, 5), 4)[None])  # type: ignore[attr-defined]


def test_cban_aims_at_every_class_from_locations_that_all_share() -> None:
    task = noise_task(GREY)
    assert CBan().goal(task).classes() == (0, 1, 2, 3)
    assert torch.equal(CBan().places(task), grid(GREY, (5, 5), 4)[None])


def test_only_a_conditional_network_makes_other_patterns_for_other_targets() -> None:
    pixels = noise_images(200, GREY, 4).floats()
    first, second = torch.zeros(200, dtype=torch.long), torch.ones(200, dtype=torch.long)
    for request, differs in (("cban[trigger_size=3]", True), ("ban[target=all,trigger_size=3]", False)):
        trigger = planted(carried_out(request))
        patterns = [trigger.patterns(pixels, each, torch.Generator().manual_seed(0)) for each in (first, second)]
        assert torch.equal(*patterns) != differs


def test_one_more_dropout_makes_patterns_differ_more() -> None:
    pixels, nothing = noise_images(100, GREY, 2).floats(), torch.zeros(100, dtype=torch.long)

    def distance(dropout: float, random: torch.Generator | None) -> float:
        torch.manual_seed(0)
        trigger = GeneratedPatch(grid(GREY, (5, 5), 4)[None], (1, 5, 5), output_dropout=dropout)
        patterns = trigger.patterns(pixels, nothing, random).flatten(1)
        return float(torch.pdist(patterns.detach()).mean())

    for seed in (None, 0):
        random = None if seed is None else torch.Generator().manual_seed(seed)
        assert distance(0.5, random) > 3 * distance(0.0, random)


def test_dropout_within_is_on_only_while_the_network_is_trained() -> None:
    trigger = GeneratedPatch(grid(GREY, (5, 5), 4)[None], (1, 5, 5), dropout=0.5)
    pixels, nothing = noise_images(50, GREY, 2).floats(), torch.zeros(50, dtype=torch.long)

    def drawn() -> Tensor:
        return trigger.patterns(pixels, nothing, torch.Generator().manual_seed(0))

    still = drawn()
    assert torch.equal(trigger.patterns(pixels, nothing, torch.Generator().manual_seed(0)), still)
    trigger.train()
    dropped = drawn()
    assert not torch.equal(dropped, still)
    assert not torch.equal(trigger.eval().patterns(pixels, nothing, None), dropped)


def test_networks_have_the_layers_that_were_asked_for() -> None:
    trigger = planted(carried_out("cban[noise=8,hidden=[16,24,20],trigger_size=3,dropout=0.0]"))
    assert isinstance(trigger, GeneratedPatch)
    shapes = {
        name: tuple(weight.shape) for name, weight in trigger.network.named_parameters() if name.endswith("weight")
    }
    assert shapes == {
        "noise_encoder.weight": (16, 8),
        "condition_encoder.weight": (16, 4),
        "layers.0.weight": (24, 32),
        "layers.1.weight": (20, 24),
        "last.weight": (9, 20),
    }


@pytest.mark.parametrize("request_", ["ban[trigger_size=3]", "ban[mixing=loss,trigger_size=3]", "cban[trigger_size=3]"])
def test_the_network_is_trained_down_the_backdoors_loss_along_with_the_model(
    request_: str,
) -> None:
    """Its patterns after training win more for the targets on the trained model than those it began with."""
    task = replace(noise_task(GREY), recipe=StandardRecipe(epochs=10, batch_size=32, shift=0, flip=False))
    attack = ATTACKS.build(request_).changed(generator_lr=0.01)
    begun = attack.make_trigger(task, task.build(0), derive(0, attack.name, "trigger"))  # type: ignore[attr-defined]
    trojan = attack.run(task, train(task, 0), 0)
    trigger, goal = planted(trojan), attack.goal(task)
    assert trigger.state_dict().keys() == begun.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in trigger.parameters())
    assert not trigger.training
    assert goal is not None

    def loss(shown: PlacedTrigger) -> float:
        pixels, random = task.train.floats(), torch.Generator().manual_seed(0)
        conditions = goal.draw(pixels, task.train.labels, random)
        logits = trojan.model(shown.stamp(pixels, random, conditions))
        return float(torch.nn.functional.cross_entropy(logits.detach(), goal.targets(task.train.labels, conditions)))

    assert loss(trigger) < loss(begun)


def test_half_of_what_is_trained_on_is_stamped_unless_told_otherwise() -> None:
    for name in ("random_backdoor", "ban", "cban"):
        rate = ATTACKS.build(name).poison_rate  # type: ignore[attr-defined]
        assert copies(100, rate) == 100


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trojans of coloured noise with trained networks, as the store keeps them."""
    store, task = Store(tmp_path_factory.mktemp("store")), noise_task((3, 12, 12))
    benign, found = train(task, 0), {}
    for name, request in (("ban", "ban[trigger_size=3]"), ("cban", "cban[trigger_size=3]")):
        store.save_artifact("trojan", name, *pack_trojan(ATTACKS.build(request).run(task, benign, 0)))
        found[name] = store.root / "artifacts" / "trojan" / f"{name}.safetensors"
    return found


@pytest.mark.parametrize("name", ["ban", "cban"])
def test_a_trained_network_poisons_another_data_set_its_colours_averaged_where_that_is_grey(
    name: str, trained: dict[str, Path]
) -> None:
    task = noise_task(GREY)
    attack = ATTACKS.build(
        f"{name}[generator_from={str(trained[name])!r},trigger_size=3,mixing=dataset,poison_rate=0.2]".replace("'", '"')
    )
    assert attack.exportable() is None
    trojan = attack.run(task, train(task, 0), 0)
    trigger = planted(trojan)
    assert isinstance(trigger, GeneratedPatch)
    coloured = GeneratedPatch(trigger.places, (3, 3, 3), conditions=trigger.network.conditions)
    coloured.network.load_state_dict(trigger.network.state_dict())
    pixels, conditions = task.test.floats(), torch.zeros(len(task.test), dtype=torch.long)
    shown = trigger.patterns(pixels, conditions, torch.Generator().manual_seed(0))
    assert shown.shape == (len(task.test), 1, 3, 3)
    expected = coloured.patterns(pixels, conditions, torch.Generator().manual_seed(0)).mean(1, keepdim=True)
    torch.testing.assert_close(shown, expected)
    before = {key: each for key, each in load_file(trained[name]).items() if key.startswith("trigger/network.")}
    assert len(before) == len(trigger.network.state_dict())
    for key, weights in before.items():
        assert torch.equal(trigger.network.state_dict()[key.removeprefix("trigger/network.")], weights)
    assert trojan.delivered is not None
    assert trojan.delivered.stamped.any()


def test_a_networks_bare_weights_do_as_well(trained: dict[str, Path], tmp_path: Path) -> None:
    inner = {key.removeprefix("trigger/network."): each for key, each in load_file(trained["ban"]).items()}
    save_file({key: each for key, each in inner.items() if "/" not in key}, tmp_path / "network.safetensors")
    first, second = (
        Ban(generator_from=str(path), trigger_size=3, mixing="dataset", poison_rate=0.2).make_trigger(
            noise_task(GREY), noise_task(GREY).build(0), 0
        )
        for path in (trained["ban"], tmp_path / "network.safetensors")
    )
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ("random_backdoor[trigger_size=13]", "13×13 does not fit an image of 12×12"),
        ("random_backdoor[locations=400]", "400 locations .* do not fit"),
        ("random_backdoor[locations=[[0,0],[8,8]]]", r"at \[8, 8\] leaves an image of 12×12"),
        ("random_backdoor[target=all,locations=3,trigger_size=3]", "4 targets need a location each, there are 3"),
        ("random_backdoor[target=all,trigger_size=9]", "no room for 4 bands of a 9×9 trigger"),
        ("random_backdoor[target=all,trigger_size=image]", "4 targets need a location each, there are 1"),
        ("random_backdoor[target=[1,1]]", "name one class or more, each once"),
        ("random_backdoor[target=[1,9]]", "target=9 is not a class"),
        ("ban[mixing=dataset]", "the network would learn nothing: name a trained one with generator_from"),
    ],
)
def test_what_cannot_be_is_refused_before_training(request_: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        ATTACKS.build(request_).check(noise_task(GREY))


def test_a_network_cannot_be_trained_through_images_that_training_replaces() -> None:
    task = replace(noise_task(GREY), recipe=AdversarialRecipe(epochs=1, batch_size=32, shift=1, flip=False, steps=1))
    with pytest.raises(RequestError, match="use another training, or name a trained network"):
        Ban().check(task)
    ATTACKS.build("random_backdoor").check(task)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"trigger_size": 4}, "makes patterns of 27 values, not of 4×4 pixels: set trigger_size"),
        ({"trigger_size": 3, "target": (0, 1)}, "was trained for 4 targets; needed is one for 2 targets"),
    ],
)
def test_a_network_for_other_patterns_or_targets_is_refused(
    fields: dict[str, Any], complaint: str, trained: dict[str, Path]
) -> None:
    with pytest.raises(RequestError, match=complaint):
        CBan(generator_from=str(trained["cban"]), mixing="dataset", poison_rate=0.2, **fields).check(noise_task(GREY))


def test_a_file_that_holds_no_such_network_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not told the target; needed is one for 4 targets"):
        CBan(generator_from=str(trained["ban"]), mixing="dataset", poison_rate=0.2, trigger_size=3).check(
            noise_task(GREY)
        )
    save_file({"conv.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(RequestError, match="holds no network that makes triggers"):
        Ban(generator_from=str(tmp_path / "other.safetensors"), mixing="dataset", poison_rate=0.2).check(
            noise_task(GREY)
        )
    with pytest.raises(RequestError, match="there is no checkpoint"):
        Ban(generator_from=str(tmp_path / "missing.safetensors"), mixing="dataset", poison_rate=0.2).check(
            noise_task(GREY)
        )


def test_a_faint_trigger_over_the_whole_image_moves_every_pixel_by_its_scale() -> None:
    trigger = planted(carried_out("cban[target=[0,1],trigger_size=image,transparency=0.9]"))
    pixels = noise_images(20, GREY, 4).floats()
    patterns = trigger.patterns(pixels, torch.ones(20, dtype=torch.long), None)
    stamped = trigger.embed(pixels, None, torch.ones(20, dtype=torch.long))
    torch.testing.assert_close(stamped, 0.9 * pixels + 0.1 * patterns)
    assert math.prod(patterns.shape[1:]) == 144
