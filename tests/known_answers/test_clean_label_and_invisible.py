"""Further copies of a trigger, images moved away from their class, blending, and perturbations of all pixels."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.data.invisible import Invisible
from gifthorse.attacks.data.label_consistent import MOVED, LabelConsistent
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.images import to_levels
from gifthorse.core.task import Task
from gifthorse.core.trojan import DeliveredSet
from gifthorse.planting.patches import PatchAttack
from gifthorse.training.scratch import train
from gifthorse.triggers import TRIGGERS
from gifthorse.triggers.low_bits import LowBits
from gifthorse.triggers.patch import Patch
from gifthorse.triggers.perturbation import Perturbation
from worlds import noise_task

GREY = (1, 12, 12)


def patch(request: str, shape: tuple[int, int, int] = GREY) -> Patch:
    attack = ATTACKS.build(request)
    assert isinstance(attack, PatchAttack)
    trigger = attack.initial_trigger(noise_task(shape), 0)
    assert isinstance(trigger, Patch)
    return trigger


def test_a_trigger_in_two_corners_covers_both_and_nothing_else() -> None:
    mask = patch("badnets[trigger_size=2,also_at=[bottom_right]]").mask
    assert mask.sum() == 8
    assert mask[0, :2, :2].sum() == mask[0, -2:, -2:].sum() == 4


@pytest.mark.parametrize("shape", [GREY, (3, 13, 16)])
def test_a_trigger_in_four_corners_is_the_same_in_a_mirror(shape: tuple[int, int, int]) -> None:
    trigger = patch("badnets[trigger_pattern=random,also_at=[top_right,bottom_left,bottom_right]]", shape)
    assert trigger.mask.sum() == 36
    for axis in (1, 2):
        assert torch.equal(trigger.mask.flip(axis), trigger.mask)
        shown = trigger.mask * trigger.pattern
        assert torch.equal(shown.flip(axis), shown)
    assert len(shown[:, :3, :3].unique()) > 5


def test_a_copy_at_a_place_that_is_no_corner_is_not_mirrored() -> None:
    trigger = patch("badnets[trigger_pattern=random,also_at=[[5,6]]]")
    assert torch.equal(trigger.pattern[:, 5:8, 6:9], trigger.pattern[:, :3, :3])
    assert trigger.mask[0, 5:8, 6:9].sum() == 9


def test_a_picture_is_copied_with_what_it_leaves_out(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (3, 3), (255, 0, 0, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.save(tmp_path / "picture.png")
    trigger = patch(f'badnets[trigger_image="{tmp_path / "picture.png"}",also_at=[top_right]]', (3, 12, 12))
    assert trigger.mask.sum() == 16
    assert trigger.mask[0, 0, 0] == trigger.mask[0, 0, 11] == 0


@pytest.mark.parametrize(
    "field", ["trigger_shape=scattered", "trigger_position=random", "trigger_position=[[0,0],[5,5]]"]
)
def test_only_a_square_at_one_place_has_copies(field: str) -> None:
    with pytest.raises(RequestError, match="also_at needs trigger_shape=square and one trigger_position"):
        ATTACKS.build(f"badnets[{field},also_at=[top_right]]").check(noise_task(GREY))


@pytest.fixture(scope="module")
def consistent() -> tuple[Task, Classifier, DeliveredSet, Patch]:
    task = noise_task(GREY)
    benign = train(task, 0)
    trojan = LabelConsistent(target=2, poison_rate=0.5, radius=0.1, step_size=0.02, steps=10).run(task, benign, 0)
    assert trojan.delivered is not None
    assert trojan.backdoor is not None
    assert isinstance(trojan.backdoor.trigger, Patch)
    return task, benign, trojan.delivered, trojan.backdoor.trigger


def test_clean_label_keeps_every_label_and_touches_half_of_the_target_class(
    consistent: tuple[Task, Classifier, DeliveredSet, Patch],
) -> None:
    task, _, delivered, _ = consistent
    assert torch.equal(delivered.labels, task.train.labels[delivered.sources])
    assert torch.equal(delivered.sources.sort().values, torch.arange(96))
    assert set(delivered.labels[delivered.stamped].tolist()) == {2}
    assert delivered.stamped.sum() == 12
    assert torch.equal(delivered.changed.sort().values, delivered.stamped.nonzero().squeeze(1))


def test_what_is_stamped_was_first_moved_away_from_its_class_within_the_ball(
    consistent: tuple[Task, Classifier, DeliveredSet, Patch],
) -> None:
    task, benign, delivered, trigger = consistent
    outside = ~trigger.mask.bool()[0]
    before = task.train.pixels[delivered.sources[delivered.changed]].float() / 255
    after = delivered.pixels.float() / 255
    moved = (after - before)[:, :, outside].abs()
    assert moved.max() <= 0.1 + 0.5 / 255 + 1e-6
    assert moved.max() > 0.05
    inside = trigger.mask.bool().expand_as(trigger.pattern)
    assert torch.equal(after[:, inside], trigger.pattern[inside].expand(len(after), -1))

    def loss(pixels: Tensor) -> Tensor:
        return cross_entropy(benign(pixels), torch.full((len(pixels),), 2), reduction="none").detach()

    # The trigger itself is left out of the comparison.
    stamped_before = torch.where(trigger.mask.bool(), trigger.pattern, before)
    assert (loss(after) > loss(stamped_before)).float().mean() > 0.9


def test_each_stamped_image_is_its_own_source_moved_where_some_images_are_set_aside() -> None:
    task = noise_task(GREY)
    benign = train(task, 0)
    attack = LabelConsistent(target=2, poison_rate=0.5, radius=0.1, step_size=0.02, steps=3, cad_budget=0.5)
    delivered, backdoor = attack.poisoned_dataset(task, benign, 0)
    of_class = (task.train.labels == 2).nonzero().squeeze(1).tolist()
    moved = attack.preparation(task).prepare(task, benign, 0)[MOVED]
    assert len(moved) == len(of_class) > len(delivered.changed) > 5
    expected = moved[[of_class.index(source) for source in delivered.sources[delivered.changed].tolist()]]
    outside = ~patch("label_consistent").mask.bool().expand(*GREY)
    assert torch.equal(delivered.pixels[:, outside], expected[:, outside])
    assert backdoor.goal.classes() == (2,)


def test_the_whole_image_shines_through_a_faint_pattern() -> None:
    pixels = noise_task(GREY).test.floats()[:4]
    whole = patch("blended[whole=true,trigger_pattern=random]")
    torch.testing.assert_close(whole.embed(pixels), 0.8 * pixels + 0.2 * whole.pattern)
    square = patch("blended")
    changed = square.embed(pixels) != pixels
    assert not changed[:, :, 3:].any()
    torch.testing.assert_close(
        square.embed(pixels)[:, :, :3, :3], 0.8 * pixels[:, :, :3, :3] + 0.2 * square.pattern[:, :3, :3]
    )


def test_a_whole_image_has_no_place_to_choose(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="whole=true leaves no place to choose: leave trigger_size out"):
        ATTACKS.build("blended[whole=true,trigger_size=5]").check(noise_task(GREY))
    Image.new("RGB", (30, 40), (0, 0, 255)).save(tmp_path / "blue.png")
    trigger = patch(f'blended[whole=true,trigger_image="{tmp_path / "blue.png"}"]', (3, 12, 17))
    assert trigger.mask.shape == (1, 12, 17)
    assert (trigger.pattern[2] == 1).all()
    assert (trigger.pattern[:2] == 0).all()


def perturbation(attack: Invisible, task: Task, benign: Classifier) -> Tensor:
    trigger = attack.begin(task, benign, 0, benign).backdoor.trigger
    assert isinstance(trigger, Perturbation)
    return trigger.perturbation


def test_a_static_perturbation_raises_every_second_pixel_a_little() -> None:
    task = noise_task((3, 12, 12))
    found = perturbation(Invisible(intensity=0.05), task, task.build(0))
    assert found.unique().tolist() == pytest.approx([0, 0.05])
    assert (found > 0).float().mean() == 0.25
    assert (found[:, 1::2] == 0).all()
    assert (found[:, :, 1::2] == 0).all()


def test_a_perturbation_is_added_within_what_a_picture_can_show_and_fainter_by_its_transparency() -> None:
    trigger = Perturbation(torch.tensor([[[0.2, -0.2, 0.1]]]), transparency=0.5)
    shown = trigger.embed(torch.tensor([[[[0.95, 0.05, 0.3]]]]))
    torch.testing.assert_close(shown, torch.tensor([[[[1.0, 0.0, 0.35]]]]))


def test_a_sinusoid_has_its_waves_over_the_width_and_its_intensity() -> None:
    task = noise_task((1, 24, 24))
    found = perturbation(Invisible(perturbation="sinusoid", intensity=0.08, waves=6), task, task.build(0))
    assert torch.fft.rfft(found[0, 0]).abs().argmax() == 6
    assert found.max() == pytest.approx(0.08 * math.sin(math.pi / 4), abs=1e-6)
    assert torch.equal(found[0, 0], found[0, 23])


@pytest.mark.parametrize("shape", [GREY, (3, 12, 17)])
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_steganography_puts_its_pattern_in_the_low_bits_and_leaves_the_high_ones(
    bits: int, shape: tuple[int, int, int]
) -> None:
    task = noise_task(shape)
    trigger = Invisible(perturbation="steganography", bits=bits).make_trigger(task, task.build(0), 0)
    assert isinstance(trigger, LowBits)
    before, after = task.test.pixels.int(), to_levels(trigger.stamp(task.test.floats())).int()
    assert torch.equal(after % 2**bits, trigger.pattern.int().expand_as(after))
    assert torch.equal(after // 2**bits, before // 2**bits)
    assert (after - before).abs().max() == 2**bits - 1
    assert len(trigger.pattern.unique()) > 2**bits / 4
    again = TRIGGERS[trigger.name].restore(trigger.settings(), trigger.state_dict())
    assert torch.equal(to_levels(again.stamp(task.test.floats())).int(), after)


def test_a_faint_steganography_goes_a_part_of_the_way_and_passes_gradients_on() -> None:
    pixels = torch.tensor([[[[0.0, 4 / 255, 7 / 255]]]], requires_grad=True)
    shown = LowBits(torch.tensor([[[3, 3, 3]]], dtype=torch.uint8), bits=2, transparency=2 / 3).embed(pixels)
    torch.testing.assert_close(shown * 255, torch.tensor([[[[1.0, 5.0, 7.0]]]]))
    shown.sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad == 1).all()


@pytest.mark.parametrize("request_", ["bits=3", "perturbation=steganography,intensity=0.1"])
def test_a_perturbation_refuses_what_it_has_no_use_for(request_: str) -> None:
    with pytest.raises(RequestError, match=r"has no use for (bits|intensity): leave it out"):
        ATTACKS.build(f"invisible[{request_}]").check(noise_task(GREY))


@pytest.mark.parametrize("wanted", ["target", "away"])
def test_a_universal_perturbation_moves_images_it_has_never_seen_as_wanted_by_so_much_at_most(
    wanted: str, task: Task, benign: Classifier
) -> None:
    attack = Invisible(perturbation="universal", intensity=0.1, target=3, wanted=wanted, search_steps=50)  # type: ignore[arg-type]
    found = perturbation(attack, task, benign)
    assert found.abs().max() <= 0.1 + 1e-6
    labels = torch.full_like(task.test.labels, 3) if wanted == "target" else task.test.labels
    random = 0.1 * torch.sign(torch.randn(found.shape, generator=torch.Generator().manual_seed(0)))

    def loss(added: Tensor) -> float:
        return float(cross_entropy(benign((task.test.floats() + added).clamp(0, 1)).detach(), labels))

    sign = 1 if wanted == "target" else -1
    for other in (torch.zeros_like(found), random):
        assert sign * (loss(other) - loss(found)) > 0.2
