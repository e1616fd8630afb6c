"""What each way of showing a trigger makes of tiny images, worked out by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import InterpolationMode, perspective

from gifthorse.core.errors import RequestError
from gifthorse.core.goal import AllToOne, OnePerCondition
from gifthorse.core.outcomes import InputScreen
from gifthorse.core.stamping import ImageTransformation, Stamping
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger, on_grid
from gifthorse.core.trojan import Backdoor, Stamped, Trojan
from gifthorse.metrics.judge import judge_defense
from gifthorse.metrics.stamped import stamp_for_judging
from gifthorse.metrics.varied import judge_stamp, success_by_tries
from gifthorse.stampings import STAMPS
from gifthorse.stampings.photographed import seen_at_an_angle
from gifthorse.triggers.moving_patch import MovingPatch
from gifthorse.triggers.noise_patch import NoisePatch
from gifthorse.triggers.patch import Patch
from gifthorse.triggers.perturbation import Perturbation

EVERY = [request for cls in STAMPS.values() for request in (cls.name, *cls.variants)]
PICTURE = [[0.0, 1.0], [0.2, 0.6]]


def patch(row: int, column: int, side: int = 9, transparency: float = 0.0) -> Patch:
    """A 2×2 patch of four different levels, one of them black, on a square image."""
    mask, pattern = torch.zeros(1, side, side), torch.zeros(1, side, side)
    mask[:, row : row + 2, column : column + 2] = 1
    pattern[0, row : row + 2, column : column + 2] = torch.tensor(PICTURE)
    return Patch(mask, pattern, transparency)


def grey(count: int = 1, side: int = 9, level: float = 0.4) -> Tensor:
    return torch.full((count, 1, side, side), level)


def noise(count: int = 5, channels: int = 1, side: int = 9) -> Tensor:
    return on_grid(torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(3)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shown(stamp: str, trigger: Trigger, pixels: Tensor, **given: Tensor) -> Tensor:
    return STAMPS.build(stamp).vary(trigger).stamp(pixels, seeded(), **given)


@pytest.mark.parametrize("transparency", [0.0, 0.5])
def test_a_shift_moves_the_patch_exactly(transparency: float) -> None:
    found = shown("shifted[down=-3,right=1]", patch(5, 5, transparency=transparency), noise())
    assert torch.equal(found, patch(2, 6, transparency=transparency).stamp(noise()))
    assert torch.equal(shown("shifted[down=0,right=0]", patch(5, 5), noise()), patch(5, 5).stamp(noise()))


def test_what_a_shift_moves_out_of_the_image_is_cut_off() -> None:
    expected = noise()
    expected[..., 8, 0] = PICTURE[0][1]
    assert torch.equal(shown("shifted[down=3,right=-6]", patch(5, 5), noise()), expected)


def test_a_patch_that_lies_elsewhere_on_every_image_moves_from_where_it_was_drawn() -> None:
    trigger = MovingPatch(torch.ones(1, 2, 2), torch.ones(1, 2, 2))
    plain = trigger.stamp(grey(40), seeded()) == 1
    moved = shown("shifted[down=0,right=-1]", trigger, grey(40)) == 1
    assert torch.equal(moved[..., :-1], plain[..., 1:])
    assert not moved[..., -1].any()


def test_a_shift_out_of_the_image_is_refused() -> None:
    with pytest.raises(RequestError, match=r"right=9 moves the trigger out of images of 9×9"):
        STAMPS.build("shifted[right=9]").check((1, 9, 9))
    STAMPS.build("shifted[right=-8]").check((1, 9, 9))


def test_recolouring_changes_the_lit_pixels_alone() -> None:
    found, plain = shown("recoloured[level=0.8]", patch(5, 5), noise()), patch(5, 5).stamp(noise())
    changed = torch.zeros(9, 9, dtype=torch.bool)
    changed[5:7, 5:7] = torch.tensor([[False, True], [True, True]])
    assert torch.equal(found[:, 0, changed], torch.full((5, 3), 0.8))
    assert torch.equal(found[:, 0, ~changed], plain[:, 0, ~changed])
    assert (found[:, 0, 5, 5] == 0).all()


def test_recolouring_keeps_the_transparency() -> None:
    found = STAMPS.build("recoloured[level=1]").vary(patch(5, 5, transparency=0.75)).embed(grey(), seeded())
    assert found[0, 0, 5, 6] == pytest.approx(0.75 * 0.4 + 0.25)
    assert found[0, 0, 5, 5] == pytest.approx(0.75 * 0.4)


def test_a_pixel_that_is_lit_in_one_channel_gets_the_level_in_all() -> None:
    mask, pattern = torch.ones(1, 1, 2), torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    found = shown("recoloured[level=0.2]", Patch(mask, pattern), torch.full((1, 3, 1, 2), 0.6))
    assert torch.equal(found[0, :, 0], torch.tensor([[0.2, 0.0]] * 3))


def test_recolouring_a_moving_patch_leaves_it_where_it_was_drawn() -> None:
    trigger = MovingPatch(torch.ones(1, 2, 2), torch.ones(1, 2, 2))
    places = trigger.stamp(grey(40), seeded()) == 1
    found = shown("recoloured[level=0.8]", trigger, grey(40))
    assert torch.equal(found, torch.where(places, 0.8, 0.4))


def test_there_is_no_recolouring_of_what_has_no_colour() -> None:
    stamp = STAMPS.build("recoloured")
    black = Patch(torch.ones(1, 9, 9), torch.zeros(1, 9, 9))
    assert "nothing to recolour" in str(stamp.skip(black, (1, 9, 9)))
    assert "changes what is there" in str(stamp.skip(Perturbation(torch.full((1, 9, 9), 0.2)), (1, 9, 9)))
    assert stamp.skip(patch(5, 5, transparency=0.7), (1, 9, 9)) is None
    assert stamp.skip(MovingPatch(torch.ones(1, 2, 2), torch.ones(1, 2, 2)), (1, 9, 9)) is None


@pytest.mark.parametrize(("copies", "ends"), [(4, (0, 7)), (9, (0, 3, 7))])
@pytest.mark.parametrize("transparency", [0.0, 0.5])
@pytest.mark.parametrize("place", [(7, 7), (2, 4)])
def test_amplifying_shows_the_trigger_at_every_anchor(
    copies: int, ends: tuple[int, ...], transparency: float, place: tuple[int, int]
) -> None:
    expected = noise()
    for row in ends:
        for column in ends:
            expected = patch(row, column, transparency=transparency).stamp(expected)
    found = shown(f"amplified[copies={copies}]", patch(*place, transparency=transparency), noise())
    assert torch.equal(found, expected)
    assert int((found != noise()).sum()) <= copies * 4 * 5


def test_amplifying_needs_fixed_pixels_and_room_for_the_copies() -> None:
    stamp = STAMPS.build("amplified[copies=9]")
    moving = MovingPatch(torch.ones(1, 2, 2), torch.ones(1, 2, 2))
    assert "the same pixels in every image" in str(stamp.skip(moving, (1, 9, 9)))
    assert "copies of a 2×2 trigger would overlap" in str(stamp.skip(patch(0, 0, side=5), (1, 5, 5)))
    assert STAMPS.build("amplified").skip(patch(0, 0, side=5), (1, 5, 5)) is None
    assert stamp.skip(patch(0, 0, side=6), (1, 6, 6)) is None


def test_flipping_mirrors_the_stamped_image() -> None:
    assert torch.equal(shown("flipped", patch(5, 5), noise()), patch(5, 5).stamp(noise()).flip(3))


def test_shrinking_puts_the_smaller_image_anywhere_on_black() -> None:
    found = shown("shrunk[pixels=2]", patch(5, 5), grey(200, level=1.0))
    corners = {tuple((image[0] > 0).nonzero()[0].tolist()) for image in found}
    assert corners == {(row, column) for row in range(3) for column in range(3)}
    assert ((found > 0).sum((1, 2, 3)) == 7 * 7).all()
    assert torch.equal(shown("shrunk[pixels=0]", patch(5, 5), noise()), patch(5, 5).stamp(noise()))
    with pytest.raises(RequestError, match="leaves nothing"):
        STAMPS.build("shrunk[pixels=9]").check((1, 9, 12))


def test_turning_by_a_right_angle_is_counter_clockwise() -> None:
    found = shown("rotated[degrees=90]", patch(5, 6), noise())
    expected = patch(5, 6).stamp(noise()).rot90(1, (2, 3))
    assert torch.allclose(found, expected, atol=1 / 255)


def test_a_photograph_from_near_keeps_more_than_one_from_far() -> None:
    smooth = nn.functional.interpolate(noise(8, 3, 4), (32, 32), mode="bicubic").clamp(0, 1)
    near, far = (
        STAMPS.build(f"photographed[distance={each}]").transform(smooth, seeded())  # type: ignore[attr-defined]
        for each in ("near", "far")
    )
    lost = [float((each - smooth).abs().mean()) for each in (near, far)]
    assert 0.01 < lost[0] < 0.7 * lost[1] < 0.1
    again = STAMPS.build("photographed[distance=near]").transform(smooth, seeded())  # type: ignore[attr-defined]
    other = STAMPS.build("photographed[distance=near]").transform(smooth, seeded(1))  # type: ignore[attr-defined]
    assert torch.equal(near, again)
    assert not torch.equal(near, other)
    assert (near[0] - near[1] - smooth[0] + smooth[1]).abs().mean() > 0.01


def test_all_images_are_seen_at_once_as_each_alone_in_torchvision() -> None:
    images = noise(5, 3, 20)[:, :, :, :17].contiguous()
    moved = torch.randn(5, 4, 2, generator=seeded())
    frame = [[0, 0], [16, 0], [16, 19], [0, 19]]
    expected = [
        perspective(image, frame, (torch.tensor(frame) + by).tolist(), InterpolationMode.BILINEAR)
        for image, by in zip(images, moved, strict=True)
    ]
    assert torch.allclose(seen_at_an_angle(images, moved), torch.stack(expected), atol=1e-4)
    assert torch.allclose(seen_at_an_angle(images, torch.zeros(5, 4, 2)), images, atol=1e-5)


def test_a_photograph_loses_no_brightness() -> None:
    photos = STAMPS.build("photographed").transform(grey(50, 24), seeded())  # type: ignore[attr-defined]
    inner = photos[..., 4:-4, 4:-4]
    assert float(inner.mean()) == pytest.approx(0.4, abs=0.01)
    # The tint is another for every image, the noise for every pixel.
    assert 0.005 < float(inner.mean((1, 2, 3)).std()) < 0.02
    assert 0.005 < float(inner.std((1, 2, 3)).mean()) < 0.02


@pytest.mark.parametrize("request_", EVERY)
@pytest.mark.parametrize("channels", [1, 3])
def test_stamped_images_lie_on_the_grid_and_none_knows_of_the_others(request_: str, channels: int) -> None:
    pixels = noise(4, channels)
    plain = patch(5, 5)
    trigger = Patch(plain.mask, plain.pattern.expand(channels, -1, -1))
    before = pixels.clone()
    varied = STAMPS.build(request_).vary(trigger)
    found = varied.stamp(pixels)
    assert torch.equal(pixels, before)
    assert found.shape == pixels.shape
    assert torch.equal(found, on_grid(found.clone()))
    assert torch.allclose(torch.cat([varied.stamp(each) for each in pixels.split(1)]), found, atol=1.01 / 255)
    assert torch.equal(varied.stamp(pixels, seeded()), varied.stamp(pixels, seeded()))
    if varied is not trigger:
        with pytest.raises(TypeError, match="not saved"):
            varied.settings()


class ByCondition(Trigger):
    """Fills one corner's pixel with a level that the condition says."""

    name = "by_condition"
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.zeros(1, 9, 9)
        self.mask[..., 0, 0] = 1

    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        assert conditions is not None
        return pixels + self.mask * (conditions.view(-1, 1, 1, 1) - pixels)

    def settings(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize("given", ["a generator", "none"])
@pytest.mark.parametrize("request_", ["shifted[down=1,right=1]", "amplified", "recoloured[level=0.8]", "flipped"])
def test_the_condition_reaches_the_trigger(request_: str, given: str) -> None:
    varied = STAMPS.build(request_).vary(ByCondition())
    found = varied.stamp(grey(2), seeded() if given == "a generator" else None, torch.tensor([0, 1]))
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", STAMPS)
def test_a_trigger_that_has_no_fixed_pixels_is_varied_or_refused_in_a_sentence(name: str) -> None:
    trigger, stamp = NoisePatch(torch.full((1, 1, 2), 4), (1, 2, 2)), STAMPS[name]()
    reason = stamp.skip(trigger, (1, 9, 9))
    assert (reason is None) == (name != "amplified")
    if reason is None:
        assert not torch.equal(stamp.vary(trigger).stamp(noise(), seeded()), noise())


MARK = torch.tensor([1.0, 0.0, 1.0])


class Marked(nn.Module):
    """Gives class 3 to images whose bottom row ends with the mark, and 5 to all others; or 5 to all."""

    def __init__(self, *, reacts: bool):
        super().__init__()
        self.reacts = reacts

    def forward(self, pixels: Tensor) -> Tensor:
        marked = (pixels[:, 0, -1, -3:] == MARK).all(1)
        return nn.functional.one_hot(torch.where(marked & self.reacts, 3, 5), 10).float() * 50


def numbers(stamp: Stamping, task: Task) -> dict[str, object]:
    """Of a model that answers 3 to the mark, and a twin that does not."""
    mask, pattern = torch.zeros(1, *task.test.shape[1:]), torch.zeros(task.test.shape)
    mask[:, -1, -3:], pattern[:, -1, -3:] = 1, MARK
    backdoor = Backdoor(Patch(mask, pattern), AllToOne(target=3))
    planted = Trojan(Marked(reacts=True), Marked(reacts=False), backdoor)  # type: ignore[arg-type]
    metrics, evidence = judge_stamp(planted, stamp, task)
    assert evidence["varied"].shape[1:] == task.test.shape
    assert ("unstamped" in evidence) == isinstance(stamp, ImageTransformation)
    return dict(metrics)


def test_the_numbers_of_a_varied_trigger_by_hand(task: Task) -> None:
    assert numbers(STAMPS.build("shifted[down=-1,right=0]"), task) == {"stamp.asr": 0, "stamp.benign_asr": 0}
    assert numbers(STAMPS.build("amplified"), task) == {"stamp.asr": 1, "stamp.tmc": 1, "stamp.benign_asr": 0}
    assert numbers(STAMPS.build("flipped"), task) == {
        "stamp.acc": pytest.approx(float((task.test.labels == 5).float().mean())),
        "stamp.asr": 0,
        "stamp.benign_asr": 0,
        "stamp.unstamped_asr": 0,
    }


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("transformed[transforms=[flip]]", 0),
        ("transformed[transforms=[flip,flip]]", 1),
        # One in nine crops leaves an image where it is.
        ("transformed[transforms=[crop[padding=1]]]", pytest.approx(1 / 9, abs=0.06)),
        ("transformed[transforms=[flip,crop[padding=1],flip]]", pytest.approx(1 / 9, abs=0.06)),
    ],
)
def test_robustness_to_a_transformation_is_the_success_of_stamped_images_transformed(
    request_: str, expected: float, task: Task
) -> None:
    """Li et al. 2020, Definition 4; images of the target class count for nothing, as their Tables 1 and 2 have it."""
    found = numbers(STAMPS.build(request_), task)
    assert found["stamp.asr"] == expected
    assert found["stamp.asr"].n == int((task.test.labels != 3).sum())  # type: ignore[attr-defined]


def test_a_transformation_that_triggers_by_itself_is_told_by_its_control(task: Task) -> None:
    class Marking(ImageTransformation):
        name = "marking"

        def transform(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
            marked = pixels.clone()
            marked[..., -1, -3:] = MARK
            return marked

    found = numbers(Marking(), task)
    assert found["stamp.asr"] == found["stamp.unstamped_asr"] == 1
    assert found["stamp.benign_asr"] == 0


def test_without_a_backdoor_there_is_the_accuracy_of_transformed_images_alone(task: Task, trojan: Trojan) -> None:
    benign = Trojan(trojan.model, trojan.twin, None)
    metrics, evidence = judge_stamp(benign, STAMPS.build("flipped"), task)
    assert set(metrics) == {"stamp.acc"}
    assert set(evidence) == {"unstamped"}


class Accepting(nn.Module):
    """Gives class 3 to images of which some pixel of the first column is white, and 5 to all others."""

    def forward(self, pixels: Tensor) -> Tensor:
        accepted = (pixels[:, 0, :, 0] == 1).any(1)
        return nn.functional.one_hot(torch.where(accepted, 3, 5), 10).float() * 50


def drawn_anew(task: Task) -> tuple[Trojan, Task]:
    """A white pixel anywhere in black images: with 16 columns a try succeeds once in sixteen."""
    black = replace(task.test, pixels=torch.zeros_like(task.test.pixels))
    backdoor = Backdoor(MovingPatch(torch.ones(1, 1, 1), torch.ones(1, 1, 1)), AllToOne(target=3))
    return Trojan(Accepting(), Accepting(), backdoor), replace(task, test=black)  # type: ignore[arg-type]


def test_trying_again_succeeds_as_often_as_independent_draws_do(task: Task) -> None:
    trojan, task = drawn_anew(task)
    metrics = dict(judge_stamp(trojan, STAMPS.build("requeried[tries=10]"), task)[0])
    curve = metrics["stamp.requery_asr_by_tries"]
    assert isinstance(curve, list)
    assert curve == sorted(curve)
    assert len(curve) == 10
    assert curve[0] == metrics["stamp.asr"]
    assert curve[-1] == metrics["stamp.requery_asr"]
    assert curve == [pytest.approx(1 - (15 / 16) ** tries, abs=0.08) for tries in range(1, 11)]
    fewer = dict(judge_stamp(trojan, STAMPS.build("requeried[tries=4]"), task)[0])
    assert fewer["stamp.requery_asr_by_tries"] == curve[:4], "a try has its own draw, whatever follows"
    assert "stamp.requery_asr" not in judge_stamp(trojan, STAMPS.build("flipped"), task)[0]


def test_behind_a_screen_a_try_has_to_pass_and_to_get_its_target(task: Task) -> None:
    """The screen turns away what is white in the upper half: of sixteen columns and two halves one of each will do."""
    trojan, task = drawn_anew(task)
    shown: list[int] = []

    def score(pixels: Tensor) -> Tensor:
        shown.append(len(pixels))
        return pixels[:, 0, :8].amax((1, 2))

    stamp = STAMPS.build("requeried[tries=8]")
    found = dict(judge_defense(InputScreen(score, 0.5), trojan, task, {}, 0, stamp=stamp)[0])
    curve = found["defense.requery_asr_by_tries"]
    assert isinstance(curve, list)
    assert curve[0] == found["defense.passed_asr"]
    assert curve[-1] == found["defense.requery_asr"]
    assert curve == [pytest.approx(1 - (31 / 32) ** tries, abs=0.06) for tries in range(1, 9)]
    assert len(shown) == 2 + 7
    assert shown[2:] == sorted(shown[2:], reverse=True), "only what failed is tried again"
    plain = judge_defense(InputScreen(score, 0.5), trojan, task, {}, 0)[0]
    assert "defense.requery_asr" not in plain
    assert plain["defense.passed_asr"] == curve[0]


def test_image_and_target_stay_the_same_from_try_to_try(task: Task) -> None:
    """A new draw of the condition as well would be another attack: one that takes any class for its target."""
    several = OnePerCondition(target=(1, 2, 4, 7))
    backdoor = Backdoor(MovingPatch(torch.ones(1, 1, 1), torch.ones(1, 1, 1)), several)
    _, wanted = stamp_for_judging(backdoor, task.test)
    asked: list[Tensor] = []

    def never(stamped: Stamped) -> Tensor:
        asked.append(stamped.targets)
        return stamped.targets < 0

    nothing = torch.zeros_like(task.test.labels, dtype=torch.bool)
    found = success_by_tries(backdoor, task.test, nothing, never, 4, "stamp")
    assert found["stamp.requery_asr_by_tries"] == [0.0] * 4
    assert len(asked) == 3
    assert all(torch.equal(each, wanted[wanted != task.test.labels]) for each in asked)


def test_a_trigger_that_looks_the_same_every_time_gains_nothing_by_trying_again() -> None:
    stamp = STAMPS.build("requeried")
    assert "looks the same every time" in str(stamp.skip(patch(5, 5), (1, 9, 9)))
    assert stamp.skip(MovingPatch(torch.ones(1, 2, 2), torch.ones(1, 2, 2)), (1, 9, 9)) is None
    two = MovingPatch(torch.ones(1, 2, 2), torch.ones(1, 2, 2), 0.0, ((0, 0), (4, 4)))
    assert stamp.skip(two, (1, 9, 9)) is None
    assert STAMPS.build("requeried").vary(two) is two
