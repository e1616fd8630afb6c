"""Where triggers lie and what they show: shapes, moving patches, pictures; and what an attack does with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.data.badnets import BadNets
from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import AllToOne
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.core.trojan import Backdoor
from gifthorse.models.wide_resnet import PreActivationBlock
from gifthorse.planting.patches import PatchAttack
from gifthorse.planting.pattern_search import PatternAttack
from gifthorse.planting.pictures import read_picture
from gifthorse.planting.poisoning import StagedAttack
from gifthorse.planting.selection import EpochSelection
from gifthorse.training.scratch import train
from gifthorse.triggers.moving_patch import MovingPatch
from gifthorse.triggers.patch import Patch, scattered
from gifthorse.triggers.pattern import PatternTrigger
from worlds import linear_classifier, noise_images, noise_task


def moving(positions: list[list[int]] | None = None) -> MovingPatch:
    return MovingPatch(torch.ones(1, 2, 2), torch.ones(3, 2, 2), 0.0, positions)


def build(request: str) -> PatchAttack:
    attack = ATTACKS.build(request)
    assert isinstance(attack, PatchAttack)
    return attack


def planted(request: str, task: Task) -> Trigger:
    """The trigger that the attack trains with, and hands over."""
    attack, model = ATTACKS.build(request), task.build(0)
    assert isinstance(attack, StagedAttack)
    return attack.begin(task, model, 0, model).backdoor.trigger


def test_a_moving_patch_covers_every_place_up_to_the_last_row_and_column() -> None:
    stamped = moving().stamp(torch.zeros(3000, 3, 4, 5), torch.Generator().manual_seed(0))
    assert (stamped.sum((1, 2, 3)) == 12).all()
    assert (stamped.sum((0, 1)) > 0).all()
    corners = {(int(y), int(x)) for y, x in (image[0].nonzero().amin(0) for image in stamped)}
    assert corners == {(y, x) for y in range(3) for x in range(4)}


def test_a_moving_patch_keeps_to_its_places_and_leaves_the_rest_of_the_image_alone() -> None:
    pixels = noise_images(200, (3, 4, 5), 2).floats()
    stamped = moving([[0, 0], [2, 3]]).stamp(pixels, torch.Generator().manual_seed(0))
    changed = (stamped != pixels).any(1)
    first = changed[:, :2, :2].any((1, 2))
    assert 60 < first.sum() < 140
    assert not changed[first][:, 2:].any()
    assert not changed[first][:, :, 2:].any()
    assert not changed[~first][:, :2].any()
    assert not changed[~first][:, :, :3].any()


def test_without_a_generator_a_moving_patch_depends_on_the_image_alone() -> None:
    pixels = noise_images(40, (3, 6, 6), 2).floats()
    together = moving().stamp(pixels)
    assert torch.equal(together, torch.cat([moving().stamp(pixel[None]) for pixel in pixels]))
    assert len({tuple(image[0].nonzero().amin(0).tolist()) for image in (together != pixels).float()}) > 5


def test_a_moving_patch_blends_inside_its_window_only() -> None:
    window = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    patch = MovingPatch(window, torch.ones(1, 2, 2), 0.5, [[1, 1]])
    stamped = patch.stamp(torch.full((1, 1, 4, 4), 0.2))[0, 0] * 255
    expected = torch.full((4, 4), 51.0)
    expected[1, 1] = expected[2, 2] = 153
    assert torch.equal(stamped.round(), expected)


def test_an_optimised_pattern_gets_gradients_through_both_kinds_of_patch() -> None:
    pixels = noise_images(8, (3, 6, 6), 2).floats()
    for trigger in (moving(), Patch(scattered((3, 6, 6), 4, torch.Generator()), torch.zeros(3, 6, 6), 0.5)):
        pattern = trigger.pattern.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(trigger.embed_pattern(pixels, pattern).sum(), [pattern])
        assert torch.allclose(gradient, 8 * (1 - trigger.transparency) * trigger.shown.expand_as(gradient))


def test_scattered_pixels_are_as_many_as_the_square_has_and_follow_the_seed() -> None:
    attack, task = build("badnets[trigger_shape=scattered,trigger_size=3]"), noise_task((3, 9, 12))
    masks = [attack.initial_trigger(task, seed).mask for seed in (0, 0, 1)]
    assert all(mask is not None and mask.sum() == 9 for mask in masks)
    assert torch.equal(masks[0], masks[1])  # type: ignore[arg-type]
    assert not torch.equal(masks[0], masks[2])  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="do not fit"):
        scattered((1, 2, 2), 5, torch.Generator())


def test_scattered_pixels_lie_anywhere_each_on_its_own() -> None:
    """Nine pixels in a row, or in a square, would be as many and would follow the seed as well."""
    attack, task = build("badnets[trigger_shape=scattered]"), noise_task((1, 12, 12))
    pixels = torch.cat([attack.initial_trigger(task, seed).shown for seed in range(400)])
    assert (pixels.sum((1, 2)) == 9).all()
    share = 9 / 144
    assert (pixels.mean(0) - share).abs().max() < 5 * (share * (1 - share) / 400) ** 0.5
    neighbours = (pixels[:, :, 1:] * pixels[:, :, :-1]).sum((1, 2)).mean()
    # 132 pairs of neighbours, each with a chance of 9/144 · 8/143: half a pair a mask, where a row of nine has eight.
    assert neighbours == pytest.approx(132 * 9 / 144 * 8 / 143, abs=0.2)


@pytest.mark.parametrize("position", ["top_left", "random"])
@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_an_attack_stamps_as_many_pixels_as_its_trigger_has(size: int, position: str) -> None:
    task = noise_task((3, 12, 12))
    trigger = planted(f"badnets[trigger_size={size},trigger_position={position}]", task)
    lit = trigger.stamp(torch.zeros(20, 3, 12, 12)) == 1
    assert (lit.sum((1, 2, 3)) == 3 * size**2).all()
    if position == "top_left":
        assert lit[:, :, :size, :size].all()


@pytest.mark.parametrize("position", ["top_left", "random"])
@pytest.mark.parametrize("transparency", [0.0, 0.25, 0.8])
def test_an_attacks_trigger_lets_through_what_its_transparency_says(transparency: float, position: str) -> None:
    trigger = planted(f"badnets[transparency={transparency},trigger_position={position}]", noise_task((1, 12, 12)))
    stamped = trigger.stamp(torch.full((20, 1, 12, 12), 0.2))
    shown = stamped[(stamped - 0.2).abs() > 1 / 255]
    assert len(shown) == 20 * 9
    assert shown.sub(0.2 * transparency + 1 - transparency).abs().max() <= 0.5 / 255 + 1e-6


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Red left, blue right and transparent at the bottom; twice as wide as high."""
    levels = np.zeros((40, 80, 4), np.uint8)
    levels[:, :40, 0] = levels[:, 40:, 2] = 255
    levels[:20, :, 3] = 255
    path = tmp_path / "logo.png"
    Image.fromarray(levels).save(path)
    return path


def test_a_picture_keeps_its_colours_its_shape_and_its_transparency(picture: Path) -> None:
    pattern, opaque = read_picture(picture, 3, 4, 8)
    assert pattern.shape == (3, 4, 8)
    assert torch.equal(opaque[0], torch.tensor([[1.0], [1.0], [0.0], [0.0]]).expand(4, 8))
    assert torch.equal(pattern[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(pattern[:, 0, 7], torch.tensor([0.0, 0.0, 1.0]))


@pytest.mark.parametrize("position", ["bottom_right", "random"])
def test_an_attack_stamps_the_opaque_pixels_of_a_picture(picture: Path, position: str) -> None:
    task = noise_task((3, 12, 16))
    attack = build(f'badnets[trigger_size=4,trigger_position={position},trigger_image="{picture}"]')
    trigger, pixels = attack.initial_trigger(task, 0), task.test.floats()
    changed = (trigger.stamp(pixels) != pixels).any(1)
    assert changed.sum((1, 2)).max() == 8
    if position == "bottom_right":
        assert not changed[:, :8].any()
        assert not changed[:, 10:].any()
        assert torch.equal(trigger.stamp(pixels)[0, :, 8, 12], torch.tensor([1.0, 0.0, 0.0]))


def test_a_trojans_key_knows_what_the_picture_shows(picture: Path) -> None:
    def keys() -> tuple[str, str]:
        cell = resolve(dataset="digits", attack=f'badnets[trigger_image="{picture}"]')
        return cell.benign_key(), cell.trojan_key()

    first = keys()
    assert keys() == first
    Image.new("RGB", (4, 4), "red").save(picture)
    second = keys()
    assert second[0] == first[0]
    assert second[1] != first[1]


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ("badnets[trigger_position=[[0,0],[9,11]]]", "leaves an image"),
        ("badnets[trigger_position=random,trigger_size=13]", "does not fit"),
        ("targeted_blend[trigger_position=center]", "trigger_position"),
        ("badnets[trigger_shape=scattered,trigger_size=13]", "do not fit"),
        ('badnets[trigger_image="nowhere.png"]', "cannot read the trigger's picture nowhere.png"),
        ('badnets[trigger_image="x.png",trigger_shape=scattered]', "show no picture"),
        ("targeted_blend[trigger_shape=scattered]", "scattered pixels do not move"),
        ("badnets[trigger_shape=scattered,trigger_position=[[0,0],[5,5]]]", "scattered pixels do not move"),
        ("imc[optimisation=none]", "optimisation"),
        ("imc[skip_decay=0.5,poison_rate=0.1]", "no residual blocks"),
    ],
)
def test_impossible_triggers_are_refused_before_training(request_: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        ATTACKS.build(request_).check(noise_task((1, 12, 12)))


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    broken, clear = tmp_path / "broken.png", tmp_path / "clear.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    Image.new("RGBA", (4, 4)).save(clear)
    for path, complaint in ((broken, "cannot read"), (clear, "transparent everywhere")):
        with pytest.raises(RequestError, match=complaint):
            read_picture(path, 1, 4, 4)


def test_the_search_finds_the_pixel_that_a_known_model_looks_at() -> None:
    """Class 1 is a lit bottom-right pixel, and the pattern starts black."""
    weight = torch.zeros(2, 1, 6, 6)
    weight[1, 0, 5, 5], weight[1, 0, 4, 4] = 8.0, -8.0
    model, images = linear_classifier(weight, torch.tensor([1.0, 0.0])), noise_images(64, (1, 6, 6), 2)
    attack = BadNets(target=1, trigger_size=2, trigger_position="bottom_right", trigger_pattern="black")
    trigger = attack.initial_trigger(noise_task((1, 6, 6), 2), 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack.search(trigger, model, images, AllToOne(target=1), torch.Generator().manual_seed(0))
    assert trigger.pattern[0, 5, 5] == 1
    assert trigger.pattern[0, 4, 4] == 0
    assert trigger.pattern[0, :4].sum() == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


OPTIMISED = {"none": 0, "before": 1, "joint": 3}


@pytest.mark.parametrize("optimisation", OPTIMISED)
def test_the_pattern_is_searched_never_or_once_on_the_benign_model_or_before_every_epoch(
    optimisation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every search, here, makes the pattern one level lighter, and remembers the weights that it was made on."""
    task, searched = noise_task((1, 12, 12)), []
    benign = train(task, 0)

    def search(_: PatternAttack, trigger: PatternTrigger, model: Classifier, *__: object) -> None:
        searched.append(model.head.weight.detach().clone())
        trigger.show(trigger.pattern + 1 / 255)

    monkeypatch.setattr(PatternAttack, "search", search)
    attack = build(f"badnets[optimisation={optimisation},trigger_pattern=black,epochs=3,poison_rate=0.3]")
    trojan = attack.run(task, benign, 0)
    assert trojan.backdoor is not None
    shown = (trojan.backdoor.trigger.stamp(torch.zeros(1, 1, 12, 12)) * 255).round()
    assert shown.max() == len(searched) == OPTIMISED[optimisation]
    assert [torch.equal(weights, benign.head.weight) for weights in searched] == [True, False, False][: len(searched)]
    assert len({weights.numpy().tobytes() for weights in searched}) == len(searched)


@pytest.mark.parametrize(("decay", "falls"), [(1.0, False), (0.8, False), (0.7, True), (0.5, True)])
def test_decaying_the_gradients_of_skips_turns_the_search_where_the_branch_pulls_the_other_way(
    decay: float, falls: bool
) -> None:
    """A block gives x − 3/4 x: its skip asks for light, its branch for darkness, and γ decides which weighs more.

    From white on, five steps of a tenth: without a decay the pattern stays white. Decaying the branch instead, as Wu et
    al. do, would leave it white as well.
    """
    block = PreActivationBlock(1, 1, 1)
    for norm in (block.bn1, block.bn2):
        norm.eps = 0.0
    with torch.no_grad():
        for convolution, weight in ((block.conv1, 1.0), (block.conv2, -0.75)):
            convolution.weight.zero_()[0, 0, 1, 1] = weight
        head = nn.Linear(36, 2)
        head.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 36))
    network = nn.Sequential(block, nn.Flatten(), head)
    model = Classifier(network, mean=[0.0], std=[1.0], head="2", stages=()).eval()
    attack = build(f"imc[target=1,skip_decay={decay},trigger_pattern=white,pattern_steps=5,pattern_step=0.1]")
    assert isinstance(attack, PatternAttack)
    trigger = attack.initial_trigger(noise_task((1, 6, 6), 2), 0)
    images = noise_images(64, (1, 6, 6), 2)
    attack.search(trigger, model, images, AllToOne(target=1), torch.Generator().manual_seed(0))
    assert trigger.pattern[trigger.shown.bool()].tolist() == pytest.approx([0.5 if falls else 1.0] * 9, abs=1 / 255)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_budget_keeps_the_best_epoch_within_it(caplog: pytest.LogCaptureFixture) -> None:
    """Three epochs: useless, good, and better at the attack but too costly."""
    task = noise_task((1, 6, 6), 2)
    weight = torch.zeros(2, 1, 6, 6)
    weight[1, 0, 0, 0] = 1.0
    images = task.test
    middle = images.floats()[:, 0, 0, 0].median()
    images.labels.copy_((images.floats()[:, 0, 0, 0] > middle).long())
    twin = linear_classifier(weight, torch.stack([middle, middle * 0]))
    trigger = BadNets(target=1, trigger_size=1, trigger_position="bottom_right").initial_trigger(task, 0)

    def learned(backdoor: float, bias: float) -> None:
        with torch.no_grad():
            model.head.weight.view(2, 1, 6, 6)[1, 0, 5, 5] = backdoor
            shift[1].fill_(bias)

    model = linear_classifier(weight, torch.stack([middle, middle * 0]))
    assert model.head.bias is not None
    shift = model.head.bias
    selection = EpochSelection(model, twin, Backdoor(trigger, AllToOne(target=1)), images, budget=0.3)
    for epoch, state in enumerate([(0.0, 0.0), (0.2, 0.0), (9.0, 5.0)]):
        learned(*state)
        selection(epoch)
    selection.restore()
    assert shift[1].item() == 0
    assert model.head.weight.view(2, 1, 6, 6)[1, 0, 5, 5].item() == pytest.approx(0.2)
    assert not caplog.records

    strict = EpochSelection(model, twin, Backdoor(trigger, AllToOne(target=1)), images, budget=1e-6)
    learned(9.0, 5.0)
    strict(0)
    strict.restore()
    assert "no epoch kept the drop" in caplog.text


def test_with_a_budget_neither_model_nor_twin_trains_on_the_validation_images() -> None:
    task = noise_task((1, 12, 12))
    attack = BadNets(origin="scratch", poison_rate=0.3, mixing="dataset", cad_budget=0.5)
    trojan = attack.run(task, train(task, 0), 0)
    assert trojan.delivered is not None
    poisoned = trojan.delivered.poisoned
    assert len(poisoned) == round(0.3 / 0.7 * 86)
    assert (task.train.labels[poisoned] != 0).all()


def test_an_attack_with_a_budget_hands_over_weights_and_trigger_of_the_epoch_that_is_within_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of four epochs the third alone costs no more than it may; the trigger changes before every epoch."""
    task, after = noise_task((1, 12, 12)), []
    accuracies = iter([0.9, 0.5, 0.6, 0.88, 0.7])

    def share(model: Classifier, images: Images) -> float:
        assert len(images) == 10
        after.append(model.head.weight.detach().clone())
        return next(accuracies)

    monkeypatch.setattr(EpochSelection, "_share", staticmethod(share))
    monkeypatch.setattr(PatternAttack, "search", lambda _, trigger, *__: trigger.show(trigger.pattern + 1 / 255))
    attack = build("badnets[cad_budget=0.03,optimisation=joint,trigger_pattern=black,epochs=4,poison_rate=0.3]")
    trojan = attack.run(task, train(task, 0), 0)
    assert len(after) == 5
    assert torch.equal(trojan.model.head.weight, after[3])
    assert trojan.backdoor is not None
    assert (trojan.backdoor.trigger.stamp(torch.zeros(1, 1, 12, 12)) * 255).round().max() == 3
