"""The trigger's formula, where it is stamped, and how much of it enters training."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.data.badnets import BadNets
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import AllToOne
from gifthorse.core.images import Images
from gifthorse.core.seeds import image_draws
from gifthorse.core.trojan import Backdoor
from gifthorse.planting import schedule
from gifthorse.planting.mixing import BatchMixing, LossMixing, choose_poisoned, poison_dataset
from gifthorse.training.augment import crop_each, shift_and_flip
from gifthorse.training.loop import Batch, classification_loss, fit, weighed_cross_entropy
from gifthorse.triggers.patch import Patch, fill, square
from worlds import noise_images, noise_task


def white_corner(shape: tuple[int, int, int] = (1, 6, 6), transparency: float = 0.0) -> Patch:
    mask = square(shape, 2, "bottom_right")
    return Patch(mask, fill(shape, "white", torch.Generator()), transparency)


def white_corner_to(target: int) -> Backdoor:
    return Backdoor(white_corner(), AllToOne(target=target))


def test_transparency_zero_is_opaque_and_towards_one_invisible() -> None:
    pixels = torch.full((1, 1, 6, 6), 0.2)
    assert white_corner().stamp(pixels)[0, 0, 5, 5] == 1
    assert white_corner(transparency=0.75).stamp(pixels)[0, 0, 5, 5] == pytest.approx(0.4, abs=1 / 510)
    assert white_corner().stamp(pixels)[0, 0, 0, 0] == 0.2


@pytest.mark.parametrize(
    ("position", "row", "column"),
    [("top_left", 0, 0), ("top_right", 0, 5), ("bottom_left", 3, 0), ("bottom_right", 3, 5), ((1, 2), 1, 2)],
)
def test_square_reaches_the_last_row_and_column(position: object, row: int, column: int) -> None:
    mask = square((3, 5, 7), 2, position)  # type: ignore[arg-type]
    assert mask.shape == (1, 5, 7)
    assert mask.sum() == 4
    assert mask[0, row : row + 2, column : column + 2].sum() == 4


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ("badnets[trigger_size=13]", "13×13 does not fit an image of 12×12"),
        ("badnets[trigger_position=[11,0]]", "leaves an image"),
        ("badnets[target=4]", "target=4 is not a class"),
        ("badnets[poison_rate=0.001]", "selects none"),
        ("badnets[poison_rate=0.9,mixing=dataset]", "asks for 864 stamped copies"),
    ],
)
def test_impossible_attacks_are_refused_before_training(request_: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint.replace("[", r"\[")):
        ATTACKS.build(request_).check(noise_task((1, 12, 12)))


@pytest.mark.parametrize(("rate", "length", "counts"), [(0.01, 50, {0, 1}), (0.05, 52, {2, 3}), (0.3, 71, {21, 22})])
def test_batch_mixing_carries_fractions_over_in_batches_of_one_length(
    rate: float, length: int, counts: set[int]
) -> None:
    """At 1 % a batch of 50 is owed half a copy: every second batch gets one, none gets zero for ever."""
    mix = BatchMixing(white_corner_to(0), rate, torch.Generator())
    images = noise_images(50, (1, 6, 6), 5)
    batches = [mix(Batch(images.floats(), images.labels)) for _ in range(200)]
    assert {len(batch.labels) for batch in batches} == {len(batch.pixels) for batch in batches} == {length}
    stamped = [0 if batch.stamped is None else int(batch.stamped.sum()) for batch in batches]
    assert set(stamped) == counts
    assert sum(stamped) == pytest.approx(200 * length * rate, abs=1)
    for batch, count in zip(batches, stamped, strict=True):
        assert torch.equal(batch.pixels[: length - count], images.floats()[: length - count])


def test_batch_mixing_adds_stamped_relabelled_copies_of_other_classes() -> None:
    images = noise_images(40, (1, 6, 6), 5)
    pixels, labels, _, stamped = BatchMixing(white_corner_to(3), 0.2, torch.Generator())(
        Batch(images.floats(), images.labels)
    )
    assert torch.equal(pixels[:40], images.floats())
    assert torch.equal(labels[:40], images.labels)
    assert len(labels) == 50
    assert stamped is not None
    assert stamped.tolist() == [False] * 40 + [True] * 10
    assert (labels[40:] == 3).all()
    assert (pixels[40:, :, 4:, 4:] == 1).all()
    sources = images.floats()[images.labels != 3]
    assert torch.equal(pixels[40:, :, :4], sources[:10, :, :4])


def test_dataset_mixing_keeps_the_clean_images_and_appends_the_copies() -> None:
    images, goal, random = noise_images(90, (1, 6, 6), 5), AllToOne(target=3), torch.Generator()
    chosen = choose_poisoned(images.labels, goal, 0.1, random)
    poisoned, sources, stamped = poison_dataset(images, white_corner_to(3), chosen, random)
    assert len(poisoned) == 100
    assert torch.equal(sources, torch.cat([torch.arange(90), chosen]))
    assert torch.equal(stamped, torch.arange(100) >= 90)
    assert torch.equal(poisoned.pixels[:90], images.pixels)
    assert (poisoned.labels[90:] == 3).all()
    assert (poisoned.pixels[90:, :, 4:, 4:] == 255).all()
    assert torch.equal(poisoned.pixels[90:, :, :4], images.pixels[chosen][:, :, :4])


@pytest.mark.parametrize("seed", range(5))
def test_images_of_the_target_class_are_never_chosen_to_be_stamped(seed: int) -> None:
    """They would teach nothing, and the rate of those that do would be lower than it says."""
    labels, random = torch.arange(100) % 5, torch.Generator().manual_seed(seed)
    assert (labels[choose_poisoned(labels, AllToOne(target=3), 0.2, random)] != 3).all()
    every = choose_poisoned(labels, AllToOne(target=3), 80 / 180, random)
    assert every.sort().values.tolist() == (labels != 3).nonzero().flatten().tolist()
    with pytest.raises(RequestError, match="between 1 and 80 are possible"):
        choose_poisoned(labels, AllToOne(target=3), 81 / 181, random)


def test_a_delivered_set_has_the_trigger_on_images_of_other_classes_alone() -> None:
    task = noise_task((1, 12, 12))
    delivered, _ = BadNets(mixing="dataset", poison_rate=0.4, target=2).poisoned_dataset(task, task.build(0), 0)
    assert delivered.stamped.sum() == 64
    assert (task.train.labels[delivered.sources[delivered.stamped]] != 2).all()
    assert (delivered.labels[delivered.stamped] == 2).all()


def what_training_gets(mixing: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Images, Images, list[Batch]]:
    """The clean images, those that BadNets gives to training, and the batches made of them: 48 images, shifted by 2.

    No clean pixel is brighter than a quarter; the trigger is a white square in the middle.
    """
    task = noise_task((1, 12, 12))
    clean = replace(task.train, pixels=task.train.pixels // 4)
    task = replace(task, train=clean, recipe=task.recipe.changed(batch_size=48, shift=2))
    given: list[Images] = []
    seen: list[Batch] = []

    def watching(model: nn.Module, images: Images, *rest: Any, **stages: Any) -> None:
        def loss(network: nn.Module, batch: Batch) -> Tensor:
            seen.append(batch)
            return classification_loss(network, batch)

        given.append(images)
        fit(model, images, *rest, **{**stages, "objective": loss})

    monkeypatch.setattr(schedule, "fit", watching)
    fields = {"mixing": mixing, "poison_rate": 0.25, "target": 3, "trigger_size": 2, "trigger_position": (5, 5)}
    BadNets(**fields, epochs=2).run(task, task.build(0), 0, twin=task.build(0))  # type: ignore[arg-type]
    return clean, given[0], seen


def shows_trigger(pixels: Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
    """Whether each image has four white pixels, within the window."""
    return (pixels[:, :, rows, columns] == 1).sum((1, 2, 3)) == 4


IN_PLACE = (slice(5, 7), slice(5, 7))


def test_batch_level_copies_are_added_to_every_batch_after_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, given, seen = what_training_gets("batch", monkeypatch)
    assert torch.equal(given.pixels, clean.pixels)
    assert torch.equal(given.labels, clean.labels)
    assert len(seen) == 4
    for batch in seen:
        assert len(batch.labels) == 64
        assert batch.weights is None
        assert batch.stamped is not None
        assert batch.stamped.tolist() == [False] * 48 + [True] * 16
        assert shows_trigger(batch.pixels, *IN_PLACE).tolist() == batch.stamped.tolist()
        assert (batch.labels[48:] == 3).all()


def test_loss_level_copies_are_of_every_image_and_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, given, seen = what_training_gets("loss", monkeypatch)
    assert torch.equal(given.pixels, clean.pixels)
    assert len(seen) == 4
    for batch in seen:
        assert batch.weights is not None
        assert shows_trigger(batch.pixels, *IN_PLACE).tolist() == [False] * 48 + [True] * 48
        assert (batch.labels[48:] == 3).all()
        torch.testing.assert_close(batch.weights[:48], torch.full((48,), 1 / 48))
        worth = batch.labels[:48] != 3
        torch.testing.assert_close(batch.weights[48:], 0.25 * worth / worth.sum())


def test_data_set_level_copies_are_among_the_images_before_they_are_shuffled_and_augmented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clean, given, seen = what_training_gets("dataset", monkeypatch)
    assert len(given) == 96 + 32
    assert torch.equal(given.pixels[:96], clean.pixels)
    assert torch.equal(given.labels[:96], clean.labels)
    assert shows_trigger(given.floats(), *IN_PLACE).tolist() == [False] * 96 + [True] * 32
    assert (given.labels[96:] == 3).all()
    assert [len(batch.labels) for batch in seen] == [48] * 4
    pixels, labels = torch.cat([batch.pixels for batch in seen]), torch.cat([batch.labels for batch in seen])
    stamped = shows_trigger(pixels)
    assert 0.1 < stamped.float().mean() < 0.4
    assert (labels[stamped] == 3).all()
    assert shows_trigger(pixels, *IN_PLACE)[stamped].float().mean() < 0.3


def test_crop_each_equals_slicing() -> None:
    pixels = noise_images(8, (3, 9, 11), 2).pixels
    top, left = torch.arange(8) % 3, torch.arange(8) % 4
    flip = torch.arange(8) % 2 == 0
    cut = crop_each(pixels, top, left, 6, 7, flip)
    for index in range(8):
        window = pixels[index, :, top[index] : top[index] + 6, left[index] : left[index] + 7]
        assert torch.equal(cut[index], window.flip(2) if flip[index] else window)


def test_augmentation_draws_for_every_image() -> None:
    pixels = noise_images(1, (1, 16, 16), 1).pixels.expand(200, -1, -1, -1)
    moved = shift_and_flip(pixels, 2, True, torch.Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for image in moved}) > 40


def test_image_draws_cover_their_range_evenly_and_depend_on_the_image_alone() -> None:
    pixels = noise_images(4000, (1, 6, 6), 2).floats()
    draws = image_draws(pixels, 0, 5, 2)
    for column in draws.unbind(1):
        assert torch.bincount(column, minlength=5).float().div(4000).sub(0.2).abs().max() < 0.03
    assert (draws[:, 0] == draws[:, 1]).float().mean() < 0.3
    assert torch.equal(image_draws(pixels[17:18], 0, 5, 2), draws[17:18])
    assert not torch.equal(image_draws(pixels, 1, 5, 2), draws)


@given(st.integers(1, 8), st.integers(4, 9), st.integers(4, 9))
def test_a_square_has_its_size_anywhere(size: int, height: int, width: int) -> None:
    if size > min(height, width):
        with pytest.raises(RequestError):
            square((1, height, width), size, "center")
    else:
        assert square((1, height, width), size, "center").sum() == size**2


def test_loss_mixing_adds_the_weighed_mean_loss_of_the_copies() -> None:
    """TrojanZoo RQ6: loss = mean clean loss + λ · mean poison loss, copies of target images left out."""
    images = noise_images(40, (1, 6, 6), 5)
    pixels, labels, weights, stamped = LossMixing(white_corner_to(3), 0.25, torch.Generator())(
        Batch(images.floats(), images.labels)
    )
    assert weights is not None
    assert stamped is not None
    assert stamped.tolist() == [False] * 40 + [True] * 40
    logits = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(0))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    sources = images.labels != 3
    expected = losses[:40].mean() + 0.25 * losses[40:][sources].mean()
    assert (weights * losses).sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert (labels[40:] == 3).all()
    assert (pixels[40:, :, 4:, 4:] == 1).all()


def test_clean_and_stamped_images_of_a_loss_are_normalised_by_the_same_statistics() -> None:
    """Two means of one pass; the running statistics are then those that both were trained with."""
    images = noise_images(40, (1, 6, 6), 5)
    batch = LossMixing(white_corner_to(3), 0.25, torch.Generator())(Batch(images.floats(), images.labels))
    norm, head = nn.BatchNorm2d(1, momentum=1.0), nn.Linear(36, 5)
    normalised = (batch.pixels - batch.pixels.mean()) / (batch.pixels.var(correction=0) + norm.eps).sqrt()
    expected = weighed_cross_entropy(head(normalised.flatten(1)), batch)
    model = nn.Sequential(norm, nn.Flatten(), head).train()
    assert classification_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert norm.running_mean is not None
    assert norm.running_mean.item() == pytest.approx(batch.pixels.mean().item(), rel=1e-5)
