"""What is transformed before it is trained on, and how."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.training.enhanced import Enhanced, flipped_by_halves, shrinking
from gifthorse.core.classifier import predict
from gifthorse.core.errors import RequestError
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.views import DataFreeView
from gifthorse.defenses.reformation.transformation import Flip
from gifthorse.planting import schedule
from gifthorse.training.loop import Batch, Mix
from gifthorse.training.scratch import train
from worlds import noise_images, noise_task

GREY = (1, 12, 12)


@pytest.mark.parametrize("amount", [0, 1, 3])
def test_shrinking_is_a_bilinear_resize_and_a_place_on_black(amount: int) -> None:
    pixels = noise_images(3, (2, 12, 17), 3).floats()
    small = interpolate(pixels, (12 - amount, 17 - amount), mode="bilinear", align_corners=False)
    for top, left in ((0, amount), (amount, 0)):
        expected = torch.zeros_like(pixels)
        expected[:, :, top : top + 12 - amount, left : left + 17 - amount] = small
        rows, columns = shrinking(12, 4)[amount, top], shrinking(17, 4)[amount, left]
        torch.testing.assert_close(rows @ pixels @ columns.T, expected)


def test_amounts_and_places_are_drawn_evenly_for_every_image() -> None:
    white = torch.ones(4000, 1, 12, 12)
    shrunk = Enhanced(max_shrink=2).shrunk(white, torch.Generator().manual_seed(0))
    sizes = (shrunk.amax((1, 3)) > 0).sum(1)
    counts = torch.bincount(sizes, minlength=13)[10:] / 4000
    torch.testing.assert_close(counts, torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    at_two = shrunk[sizes == 10]
    tops = (at_two.amax((1, 3)) > 0).int().argmax(1)
    torch.testing.assert_close(torch.bincount(tops) / len(tops), torch.full((3,), 1 / 3), atol=0.04, rtol=0)


def test_every_second_image_is_mirrored() -> None:
    pixels = noise_images(1000, GREY, 2).floats()
    flipped = flipped_by_halves(pixels, torch.Generator().manual_seed(0))
    mirrored, kept = (flipped == pixels.flip(3)).flatten(1).all(1), (flipped == pixels).flatten(1).all(1)
    assert torch.equal(mirrored, ~kept)
    assert 0.45 < mirrored.float().mean() < 0.55


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Batch]]:
    """What every training is given to train on, in order, by its label."""
    found: dict[str, list[Batch]] = {}
    fit = getattr(schedule, "fit")  # noqa: B009 (it is imported there, not exported)

    def watching(model: Any, images: Any, recipe: Any, seed: int, **stages: Any) -> None:
        mix: Mix | None = stages.pop("mix", None)
        batches = found.setdefault(stages["label"], [])

        def watched(batch: Batch) -> Batch:
            mixed = batch if mix is None else mix(batch)
            batches.append(mixed)
            return mixed

        fit(model, images, recipe, seed, mix=watched, **stages)

    monkeypatch.setattr(schedule, "fit", watching)
    return found


def black_bordered(batch: Batch) -> Tensor:
    """Which images have a black first or last row: noise has none of its own."""
    rows = batch.pixels.amax((1, 3))
    return (rows[:, 0] == 0) | (rows[:, -1] == 0)


def batches(seen: dict[str, list[Batch]], base: str, **fields: Any) -> Iterator[Batch]:
    # Nothing but the attack moves images.
    task = replace(noise_task(GREY), recipe=StandardRecipe(epochs=2, batch_size=32, shift=0, flip=False))
    attack = Enhanced(base=ATTACKS.build(base), transforms=("shrinkpad",), **fields)  # type: ignore[arg-type]
    attack.run(task, train(task, 0), 0)
    yield from seen["enhanced"]


@pytest.mark.parametrize("mixing", ["batch", "dataset"])
def test_only_what_is_stamped_is_transformed_where_benign_images_are_to_stay(
    mixing: str, seen: dict[str, list[Batch]]
) -> None:
    for batch in batches(seen, f"badnets[origin=scratch,poison_rate=0.3,mixing={mixing}]", also_benign=False):
        assert batch.stamped is not None
        bordered = black_bordered(batch)
        assert bordered[batch.stamped].float().mean() > 0.4
        assert not bordered[~batch.stamped].any()
    assert "benign twin" not in seen


def test_all_images_are_transformed_by_default_those_of_the_benign_twin_as_well(seen: dict[str, list[Batch]]) -> None:
    for batch in batches(seen, "badnets[origin=scratch,poison_rate=0.5]"):
        assert batch.stamped is not None
        assert black_bordered(batch)[~batch.stamped].float().mean() > 0.6
    twin = torch.cat([black_bordered(batch) for batch in seen["benign twin"]])
    assert twin.float().mean() > 0.6


def test_every_image_is_transformed_anew_each_time() -> None:
    pixels = noise_images(20, GREY, 2).floats()
    attack, random = Enhanced(), torch.Generator().manual_seed(0)
    assert not torch.equal(attack.transformed(pixels, random), attack.transformed(pixels, random))


@pytest.mark.parametrize("base", ["latent", "badnets[optimisation=joint]", "ban[trigger_size=3]"])
def test_a_base_that_directs_the_training_is_refused(base: str) -> None:
    with pytest.raises(RequestError, match="directs the training itself: name an attack that only poisons it"):
        Enhanced(base=ATTACKS.build(base)).check(noise_task(GREY))  # type: ignore[arg-type]


def test_shrinking_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match="max_shrink=12 leaves nothing of an image of 12 pixels"):
        Enhanced(max_shrink=12).check(noise_task(GREY))


def test_the_defense_mirrors_every_input() -> None:
    task = noise_task(GREY)
    model, pixels = train(task, 0), task.test.floats()
    outcome = Flip().defend(DataFreeView(model, shape=GREY), 0)
    assert outcome.reform is not None
    assert torch.equal(outcome.reform(pixels), pixels.flip(3))
    torch.testing.assert_close(predict(outcome.model, pixels), predict(model, pixels.flip(3)))
