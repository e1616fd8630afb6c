"""Reflections: the light of each kind against a computation by hand, the pool, clean labels, and the ranking."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gifthorse.attacks import ATTACKS
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import request_defaults
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor
from gifthorse.planting.poisoning import Injection
from gifthorse.planting.reflections import ReflectionAttack
from gifthorse.training.scratch import train
from gifthorse.triggers.patch import square
from gifthorse.triggers.reflection import KINDS, Kind, Reflection, cut, ghost, in_focus, out_of_focus, reflect
from worlds import noise_images, noise_task


def attack(fields: str, name: str = "reflection") -> ReflectionAttack:
    defaults = {"origin": "scratch", "poison_rate": 0.1, "candidates": 6, "selected": 6}
    with request_defaults({"attack": {name: defaults}}):
        made = ATTACKS.build(f"{name}[{fields}]")
    assert isinstance(made, ReflectionAttack)
    return made


def pictures(count: int = 8, side: int = 6, seed: int = 5) -> Tensor:
    return noise_images(count, (1, side, side), 2, seed).floats()


def test_in_focus_adds_the_pictures_light_as_it_is() -> None:
    image, picture = torch.tensor([[[[0.0, 1.0], [0.2, 0.8]]]]), torch.tensor([[[[1.0, 0.4], [0.6, 0.0]]]])
    stamped = Reflection(in_focus(picture**2.2, 2, 2), image_weight=0.6).stamp(image)
    by_hand = [
        0.4 ** (1 / 2.2),
        (0.6 + 0.4 * 0.4**2.2) ** (1 / 2.2),
        (0.6 * 0.2**2.2 + 0.4 * 0.6**2.2) ** (1 / 2.2),
        (0.6 * 0.8**2.2) ** (1 / 2.2),
    ]
    assert stamped.flatten().tolist() == pytest.approx([round(255 * value) / 255 for value in by_hand], abs=1e-6)


def test_a_ghost_is_seen_twice() -> None:
    light = torch.arange(16.0).view(1, 1, 4, 4) / 16
    layer = ghost(light, torch.tensor([[1, 1]]), torch.tensor([0.25]), 3, 3)
    assert layer.shape == (1, 1, 3, 3)
    torch.testing.assert_close(layer, 0.25 * light[:, :, :3, :3] + 0.75 * light[:, :, 1:, 1:])


def test_every_ghost_has_its_own_shift_and_weight() -> None:
    light = torch.rand(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    layers = ghost(light, torch.tensor([[1, 2], [2, 0]]), torch.tensor([0.2, 0.7]), 5, 6)
    torch.testing.assert_close(layers[0], 0.2 * light[0, :, :5, :6] + 0.8 * light[0, :, 1:6, 2:8])
    torch.testing.assert_close(layers[1], 0.7 * light[1, :, :5, :6] + 0.3 * light[1, :, 2:7, :6])


def test_out_of_focus_spreads_a_point_as_a_gaussian_and_keeps_its_light() -> None:
    point = torch.zeros(2, 1, 9, 9)
    point[:, :, 4, 4] = 1
    sharper, softer = out_of_focus(point, torch.tensor([0.5, 1.0]))
    near, far = math.exp(-2), math.exp(-8)
    total = 1 + 2 * near + 2 * far
    assert sharper[0, 4, 4:7].tolist() == pytest.approx([1 / total**2, near / total**2, far / total**2], abs=1e-6)
    assert sharper[0, 5, 5].item() == pytest.approx(near**2 / total**2, abs=1e-6)
    assert softer.sum().item() == pytest.approx(1, abs=1e-5)
    assert softer[0, 4, 4] < sharper[0, 4, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_depends_on_the_reflected_picture(kind: Kind) -> None:
    """A peer's ghost shifted the background instead, so that every reflection gave the same images."""
    image = noise_images(4, (1, 6, 6), 2).floats()
    seen = []
    for shown in (pictures(1, seed=5), pictures(1, seed=6)):
        layers = reflect(shown, 6, 6, (kind,), torch.Generator().manual_seed(0))
        seen.append(Reflection(layers, image_weight=0.6).stamp(image))
    assert (seen[0] - seen[1]).abs().mean() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_black_reflection_leaves_the_images_own_light(kind: Kind) -> None:
    image = noise_images(4, (3, 6, 7), 2).floats()
    layers = reflect(torch.zeros(2, 3, 6, 7), 6, 7, (kind,), torch.Generator())
    stamped = Reflection(layers, image_weight=0.6).stamp(image)
    torch.testing.assert_close(stamped, (image * 0.6 ** (1 / 2.2) * 255).round() / 255)


def test_reflections_of_any_picture_size_are_light_in_range() -> None:
    for side in (4, 6, 40):
        layers = reflect(pictures(30, side), 6, 9, KINDS, torch.Generator().manual_seed(0))
        assert layers.shape == (30, 1, 6, 9)
        assert 0 <= layers.min() <= layers.max() <= 1


def test_each_image_gets_one_of_the_reflections_the_same_in_every_batch() -> None:
    layers = torch.linspace(0.1, 1, 4).view(4, 1, 1, 1).expand(4, 1, 6, 6)
    trigger, images = Reflection(layers), noise_images(200, (1, 6, 6), 2).floats()
    levels = (layers[:, 0, 0, 0] ** (1 / 2.2) * 255).round() / 255
    for source in (None, torch.Generator().manual_seed(0)):
        stamped = trigger.stamp(images, source)
        assert (stamped == stamped[:, :, :1, :1]).all()
        counts = torch.stack([(stamped[:, 0, 0, 0] - level).abs() < 1e-6 for level in levels]).sum(1)
        assert counts.sum() == 200
        assert counts.min() > 25
    assert torch.equal(trigger.stamp(images[7:9]), trigger.stamp(images)[7:9])


def test_a_patch_shows_a_piece_of_the_reflection_at_its_transparency() -> None:
    layers, mask = pictures(5), square((1, 6, 6), 2, "bottom_right")
    cuts = cut(layers, mask, torch.Generator().manual_seed(0))
    for layer, piece in zip(layers[:, 0], cuts[:, 0, 4:, 4:], strict=True):
        assert any(torch.equal(layer[r : r + 2, c : c + 2], piece) for r in range(5) for c in range(5))
    images = noise_images(4, (1, 6, 6), 2).floats()
    stamped = Reflection(cuts[:1], mask, transparency=0.25).stamp(images)
    outside = ~mask.bool().expand_as(images)
    assert torch.equal(stamped[outside], images[outside])
    expected = 0.25 * images[:, :, 4:, 4:] + 0.75 * cuts[0, :, 4:, 4:] ** (1 / 2.2)
    torch.testing.assert_close(stamped[:, :, 4:, 4:], expected, atol=0.5 / 255 + 1e-6, rtol=0)


def test_clean_labels_stay_and_only_images_of_the_target_change() -> None:
    task = noise_task((1, 12, 12))
    refool = attack("labels=clean,mixing=dataset,poison_rate=0.4,target=2", "refool")
    trigger = refool.candidate_reflections(task, 0)
    random, where = torch.Generator().manual_seed(0), torch.arange(len(task.train))
    model = task.build(0)
    backdoor = Backdoor(trigger, refool.goal(task))
    made = refool.poison(Injection(task, model, model, backdoor, task.train, where, None, random, 0))
    assert made is not None
    poisoned, sources, stamped = made
    chosen = sources[stamped]
    assert torch.equal(poisoned.labels, task.train.labels)
    assert (task.train.labels[chosen] == 2).all()
    assert len(chosen.unique()) == len(chosen) == round(0.4 * (task.train.labels == 2).sum().item())
    changed = (poisoned.pixels != task.train.pixels).flatten(1).any(1)
    assert torch.equal(changed, stamped)


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.9])
def test_a_clean_label_trojan_says_which_images_of_the_target_it_stamped(rate: float) -> None:
    task = noise_task((1, 12, 12))
    refool = attack(f"labels=clean,mixing=dataset,poison_rate={rate},selection_iterations=1,inner_epochs=1", "refool")
    refool.check(task)
    delivered = refool.run(task, train(task, 0), 0).delivered
    assert delivered is not None
    assert (task.train.labels[delivered.poisoned] == 0).all()
    assert len(delivered.poisoned.unique()) == round(rate * (task.train.labels == 0).sum().item())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight pictures, each of one grey, two of them in a subfolder; and a file that is none."""
    (tmp_path / "more").mkdir()
    for number in range(8):
        grey = np.full((9, 14, 3), 20 + 30 * number, dtype=np.uint8)
        Image.fromarray(grey).save(tmp_path / ("more" if number > 5 else ".") / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_pictures_can_be_the_pool(folder: Path, channels: int) -> None:
    task = noise_task((channels, 12, 17))
    refool = attack(f'reflections="{folder}",kind=in_focus,candidates=8,selected=8', "refool")
    layers = refool.candidate_reflections(task, 0).layers
    assert layers.shape == (8, channels, 12, 17)
    greys = ((20 + 30 * torch.arange(8)) / 255) ** 2.2
    assert layers[:, -1, 5, 5].sort().values.tolist() == pytest.approx(greys.tolist(), abs=1e-4)
    refool.check(task)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("labels=clean", "labels=clean needs mixing=dataset, not batch"),
        ("labels=clean,mixing=dataset,poison_rate=0.01", "selects none of 24 images of the target class"),
        ("kept=7", "kept=7 ≤ selected=6 ≤ candidates=6 must hold"),
        ("candidates=5", "kept=1 ≤ selected=6 ≤ candidates=5 must hold"),
        ("candidates=73", "candidates=73, but there are 72 pictures in the other classes"),
        ("reflections=nowhere", "cannot read the pictures in .*nowhere"),
        ("candidates=9,reflections=FOLDER", "candidates=9, but there are 8 pictures in "),
        ("target=4", "target=4 is not a class"),
        ("trigger_size=13", "13×13 does not fit"),
    ],
)
def test_impossible_reflections_are_refused_before_training(folder: Path, fields: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as error:
        attack(fields.replace("FOLDER", f'"{folder}"')).check(noise_task((1, 12, 12)))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_picture_is_named(folder: Path) -> None:
    (folder / "9.png").write_text("no picture")
    with pytest.raises(RequestError, match=r"cannot read the image .*9\.png"):
        attack(f'reflections="{folder}",candidates=9').candidate_reflections(noise_task((1, 12, 12)), 0)


def test_the_ranking_prefers_a_reflection_that_shows_and_tries_new_ones(
    task: Task, benign: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One white reflection among black ones, which hardly change the image, must come first."""
    refool = attack("candidates=9,selected=4,selection_iterations=3,inner_epochs=2", "refool")
    layers = torch.zeros(9, 1, 16, 16)
    layers[6] = 1
    trigger = Reflection(layers, image_weight=0.95)
    tried: list[list[int]] = []

    def spy(shown: Reflection, chosen: Tensor) -> Reflection:
        if len(chosen) > 1:
            tried.append(chosen.tolist())
        return showing(shown, chosen)

    from gifthorse.planting import reflections

    showing = reflections.showing
    monkeypatch.setattr(reflections, "showing", spy)
    assert refool.rank(trigger, task, benign, 0)[0] == 6
    assert [len(picked) for picked in tried] == [4, 4, 4]
    assert 6 in tried[2]
    assert len({place for picked in tried for place in picked}) >= 6


def test_the_trigger_is_the_blurred_reflection_of_the_picture_that_a_model_learns_best(
    task: Task, benign: Classifier, tmp_path: Path
) -> None:
    """Of nine pictures eight are as black as the corner that they would show in, the last has white stripes.

    In focus a stripe would be black or white; all that is shown of a blurred one lies between.
    """
    stripes = np.zeros((16, 16), dtype=np.uint8)
    for number in range(9):
        stripes[:, ::2] = 255 * (number == 8)
        Image.fromarray(stripes).save(tmp_path / f"{number}.png")
    one_run = "candidates=9,selected=9,selection_iterations=1,inner_epochs=2"
    made = attack(f'target=3,trigger_size=4,kind=out_of_focus,reflections="{tmp_path}",{one_run}')
    trigger = made.make_trigger(task, benign, 0)
    assert isinstance(trigger, Reflection)
    assert trigger.layers.shape == (1, 1, 16, 16)
    light = trigger.layers[0, 0, :4, :4]
    assert light.mean().item() == pytest.approx(0.5, abs=0.1)
    assert 0.02 < light.min() < light.max() < 0.98
    stamped = trigger.stamp(torch.zeros(1, 1, 16, 16))
    torch.testing.assert_close(stamped[0, 0, :4, :4], light ** (1 / 2.2), atol=0.5 / 255 + 1e-6, rtol=0)
    assert not stamped[..., 4:, :].any()
    assert not stamped[..., 4:].any()
