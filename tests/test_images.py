"""Images are checked where they come in, and cost no device a wait afterwards."""

from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.recipe import AdversarialRecipe, Recipe, StandardRecipe
from gifthorse.inversion.engine import Budget, Masked, Trial, invert
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.loop import fit
from worlds import noise_images

SHAPE = (1, 8, 8)


class CountsWaits(TorchDispatchMode):
    """Counts the values that are read from a device: the host waits for each."""

    waits: int = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.waits += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def waits(work: Callable[[], object]) -> int:
    counter = CountsWaits()  # type: ignore[no-untyped-call]
    with counter:
        work()
    return counter.waits


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_of_the_classes_is_refused(label: int) -> None:
    with pytest.raises(RequestError, match=r"labels must lie in \[0, 3\)"):
        Images(torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.tensor([0, label]), 3)


def test_images_of_other_classes_cannot_follow() -> None:
    with pytest.raises(RequestError, match="4 classes cannot follow images of 3"):
        noise_images(4, SHAPE, 3).join(noise_images(4, SHAPE, 4))


def test_what_is_made_of_checked_images_is_whole_and_waits_for_nothing() -> None:
    images, index = noise_images(12, SHAPE, 3), torch.tensor([5, 0, 7])
    assert waits(lambda: Images(images.pixels, images.labels, 3)) == 2
    assert waits(lambda: [images.take(index), images.join(images), images.to("cpu"), *images.batches(5)]) == 0
    taken = images.take(index)
    assert torch.equal(taken.pixels, images.pixels[index])
    assert torch.equal(taken.labels, images.labels[index])
    assert taken.classes == 3
    joined = images.join(taken)
    assert torch.equal(joined.pixels[12:], taken.pixels)
    assert torch.equal(joined.labels[12:], taken.labels)
    assert len(images) == 12


@pytest.mark.parametrize("recipe", [StandardRecipe, AdversarialRecipe])
def test_training_waits_for_no_mini_batch(recipe: type[Recipe]) -> None:
    def train(count: int) -> None:
        settings = recipe(epochs=1, batch_size=8, shift=1, flip=True)
        fit(SmallCnn(width=2).build(SHAPE, 3, 0), noise_images(count, SHAPE, 3), settings, 0)

    assert waits(lambda: train(16)) == waits(lambda: train(48))


def test_trigger_inversion_waits_for_no_mini_batch() -> None:
    images, model = noise_images(40, SHAPE, 3), SmallCnn(width=2).build(SHAPE, 3, 0).eval()

    def search(batches: int) -> None:
        budget = Budget(steps=2, batches=batches, batch_size=4, lr=0.1)
        source = Masked.uniform(3, images, 0)
        invert(model, images, torch.arange(3), source, Trial.cross_entropy, None, budget, 0)

    # Adam reads its own count of steps, which lies on the host.
    assert waits(lambda: search(5)) == 2 * 5
