"""Attacks on the penultimate layer in worlds where the best trigger, the loss and the gradient are known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.training.adversarial_embedding import Discriminator, balance, learn
from gifthorse.attacks.training.latent import Latent
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import AllToOne
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor
from gifthorse.metrics.functional import separability
from gifthorse.planting.mixing import BatchMixing, LossMixing, choose_poisoned, poison_dataset
from gifthorse.planting.poisoning import Injection
from gifthorse.training.loop import Batch, classification_loss, fit
from gifthorse.triggers.patch import Patch, fill, square
from worlds import linear_classifier, noise_task

SHAPE, CLASSES = (1, 6, 6), 4


def pixel_world() -> tuple[Task, Classifier]:
    """Images of four classes, each a grey level plus noise, under a model whose latents are the pixels themselves."""
    task = noise_task(SHAPE, CLASSES)
    images = replace(task.train, pixels=task.train.pixels // 8 + 50 * task.train.labels.view(-1, 1, 1, 1).byte())
    weight = torch.randn(CLASSES, *SHAPE, generator=torch.Generator().manual_seed(0))
    return replace(task, train=images), linear_classifier(weight, torch.zeros(CLASSES))


def injection(task: Task, model: Classifier) -> Injection:
    shape = task.train.shape
    trigger = Patch(square(shape, 2, "top_left"), fill(shape, "white", torch.Generator()))
    backdoor, where = Backdoor(trigger, AllToOne(target=2)), torch.arange(len(task.train))
    return Injection(task, model, model, backdoor, task.train, where, None, torch.Generator(), 0)


def whole_batch(task: Task) -> Batch:
    return Batch(task.train.floats(), task.train.labels)


def test_the_pattern_becomes_the_targets_mean_latent_where_latents_are_pixels() -> None:
    task, model = pixel_world()
    trigger = Latent(target=2, pattern_steps=200).make_trigger(task, model, 0)
    of_target = task.train.floats()[task.train.labels == 2].mean(0)
    shown = trigger.shown.bool()
    torch.testing.assert_close(trigger.pattern[shown], of_target[shown], atol=0.03, rtol=0)


def latent_part(task: Task, model: Classifier, batch: Batch) -> float:
    """What the attack's loss of a batch has beside its cross-entropy, at a weight of 3."""
    loss = Latent(target=2, latent_weight=3.0).objective(injection(task, model))
    return (loss(model, batch) - classification_loss(model, batch)).item()


def expected_part(task: Task, pixels: Tensor) -> float:
    """3 × the mean squared distance of images to the target's mean, once they have a white corner of 2×2."""
    stamped = pixels.clone()
    stamped[:, :, :2, :2] = 1
    of_target = task.train.floats()[task.train.labels == 2].mean(0)
    return 3 * (stamped - of_target).square().mean().item()


def test_the_latent_loss_is_the_weighed_squared_distance_of_stamped_images_to_the_targets_mean() -> None:
    """TrojanZoo equation 2: of every image that is not of the target class, however few copies the batch holds."""
    task, model = pixel_world()
    others = task.train.floats()[task.train.labels != 2]
    assert latent_part(task, model, whole_batch(task)) == pytest.approx(expected_part(task, others), rel=1e-3)


@pytest.mark.parametrize("mixing", ["batch", "loss"])
def test_copies_that_are_stamped_already_do_not_count_twice(mixing: str) -> None:
    """Of the first four images, or of them all; the first alone are dark, so that counting them again would show."""
    task, model = pixel_world()
    pixels, labels = task.train.floats(), task.train.labels
    pixels[:4] = 0
    backdoor, random = injection(task, model).backdoor, torch.Generator()
    mix = BatchMixing(backdoor, 0.04, random) if mixing == "batch" else LossMixing(backdoor, 0.5, random)
    batch = mix(Batch(pixels, labels))
    assert batch.stamped is not None
    assert batch.stamped.sum() == (4 if mixing == "batch" else len(labels))
    assert latent_part(task, model, batch) == pytest.approx(expected_part(task, pixels[labels != 2]), rel=1e-3)


def test_a_batch_of_the_target_class_alone_has_no_latent_loss() -> None:
    task, model = pixel_world()
    of_target = task.train.take(task.train.labels == 2)
    assert latent_part(task, model, Batch(of_target.floats(), of_target.labels)) == 0


def test_batch_and_stamped_images_are_normalised_by_the_same_statistics() -> None:
    """One pass: apart, the running statistics would fit neither."""
    task = noise_task((1, 12, 12))
    model = task.build(0)
    Latent(target=2).objective(injection(task, model))(model.train(), whole_batch(task))
    passes = [each.num_batches_tracked for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    assert passes == [1, 1, 1]


def test_the_targets_mean_latent_is_taken_in_evaluation_mode() -> None:
    task = noise_task((1, 12, 12))
    model = task.build(0)
    batch, found = whole_batch(task), []
    for training in (True, False):
        model.train(training)
        loss = Latent(target=2).objective(injection(task, model))
        found.append(loss(model.eval(), batch).item())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["latent", "adversarial_embedding"])
def test_a_training_set_without_the_target_class_is_refused(name: str) -> None:
    task = noise_task(SHAPE)
    without = replace(task, train=task.train.take(task.train.labels != 2))
    with pytest.raises(RequestError, match="no training image is of the target class 2"):
        ATTACKS.build(f"{name}[target=2,poison_rate=0.1]").check(without)


def frozen_latents() -> tuple[Tensor, Tensor, Tensor]:
    """Latents of 40 stamped and 40 clean images that differ in one unit, which of them are stamped, their weights."""
    random = torch.Generator().manual_seed(0)
    stamped = (torch.arange(80) % 2).float()
    latents = torch.randn(80, 8, generator=random)
    latents[:, 0] += 2 * stamped
    return latents, stamped, torch.full((80,), 1 / 80)


def untrained(noise: float = 0.0) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(8, noise, torch.Generator().manual_seed(0))


def test_the_discriminator_learns_to_tell_frozen_latents_apart() -> None:
    latents, stamped, weights = frozen_latents()
    discriminator = untrained()
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    assert discriminator.loss(latents, stamped, weights).item() == pytest.approx(math.log(2), abs=0.1)
    for _ in range(100):
        learn(discriminator, optimizer, latents, stamped, weights)
    assert discriminator.loss(latents, stamped, weights).item() < 0.3


def test_what_the_classifier_minimises_blinds_the_discriminator() -> None:
    latents, stamped, weights = frozen_latents()
    discriminator = untrained()
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    for _ in range(50):
        learn(discriminator, optimizer, latents, stamped, weights)
    moving = latents.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator.loss(moving, 1 - stamped, weights), [moving])
    before, after = (discriminator.loss(latents - step * gradient, stamped, weights).item() for step in (0.0, 50.0))
    assert after > before + 0.1


def test_neither_adversary_trains_the_other() -> None:
    latents, stamped, weights = frozen_latents()
    followed = latents.clone().requires_grad_()
    discriminator = untrained(noise=1.0)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    learn(discriminator, optimizer, followed, stamped, weights)
    assert followed.grad is None
    optimizer.zero_grad()
    discriminator.loss(latents.clone().requires_grad_(), 1 - stamped, weights).backward()
    assert all(weight.grad is None for weight in discriminator.parameters())


def test_against_a_classifier_that_stands_still_the_discriminator_wins() -> None:
    """The whole objective: were the discriminator trained by the classifier's loss, the flipped loss would fall."""
    task, model = pixel_world()
    attack = ATTACKS.build("adversarial_embedding[target=2,discriminator_weight=1.0,discriminator_noise=0.0]")
    loss = attack.objective(injection(task, model))  # type: ignore[attr-defined]
    pixels, labels = task.train.floats(), torch.full_like(task.train.labels, 2)
    stamped = task.train.labels != 2
    pixels[stamped, :, :2, :2] = 1
    losses = [loss(model, Batch(pixels, labels, stamped=stamped)).item() for _ in range(60)]
    assert losses[-1] > losses[0] + 0.5


def test_stamped_and_clean_images_of_the_target_weigh_a_half_each() -> None:
    labels = torch.tensor([2, 2, 0, 1, 2, 2, 2])
    stamped = torch.tensor([False, False, False, False, True, True, True])
    truth, weights = balance(Batch(torch.zeros(7, 1), labels, stamped=stamped), 2)
    assert truth.tolist() == [0, 0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(weights, torch.tensor([1 / 4, 1 / 4, 0, 0, 1 / 6, 1 / 6, 1 / 6]))
    for absent in (Batch(torch.zeros(7, 1), labels), Batch(torch.zeros(7, 1), labels * 0, stamped=stamped)):
        assert balance(absent, 2)[1].tolist() == [0.0] * 7


def test_shares_are_means_over_either_part_or_the_batchs_own_weights() -> None:
    labels, stamped = torch.zeros(5, dtype=torch.int64), torch.tensor([False, False, False, False, True])
    clean, poison = Batch(torch.zeros(5, 1), labels, stamped=stamped).shares()
    assert clean.tolist() == [0.25] * 4 + [0]
    assert poison.tolist() == [0] * 4 + [1]
    weights = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.01])
    clean, poison = Batch(torch.zeros(5, 1), labels, weights, stamped).shares()
    torch.testing.assert_close(clean + poison, weights)
    assert poison[:4].sum() == 0


def test_an_objective_is_told_which_images_of_a_poisoned_set_are_stamped() -> None:
    """Also after shuffling and batching: exactly the images with a white corner on otherwise dark ones."""
    task, model = pixel_world()
    dark = replace(task.train, pixels=task.train.pixels // 2)
    goal, random = AllToOne(target=2), torch.Generator()
    trigger = Patch(square(SHAPE, 2, "top_left"), fill(SHAPE, "white", torch.Generator()))
    chosen = choose_poisoned(dark.labels, goal, 0.2, random)
    poisoned, _, stamped = poison_dataset(dark, Backdoor(trigger, goal), chosen, random)
    seen = []

    def objective(network: nn.Module, batch: Batch) -> Tensor:
        assert batch.stamped is not None
        seen.append(torch.equal(batch.stamped, (batch.pixels[:, 0, :2, :2] == 1).all((1, 2))))
        return network(batch.pixels).sum()  # type: ignore[no-any-return]

    recipe = StandardRecipe(epochs=2, batch_size=16, shift=0, flip=False)
    fit(model, poisoned, recipe, 0, stamped=stamped, objective=objective)
    assert len(seen) == 2 * (len(poisoned) // 16)
    assert all(seen)


@pytest.mark.parametrize(("distance", "expected"), [(0.0, 0.5), (2.0, 0.841), (12.0, 1.0)])
def test_separability_of_two_gaussians_is_the_best_linear_rules(distance: float, expected: float) -> None:
    """Φ(d / 2), whatever the number of either."""
    random = torch.Generator().manual_seed(0)
    first, second = torch.randn(1500, 3, generator=random), torch.randn(400, 3, generator=random)
    second[:, 0] += distance
    assert separability(first, second) == pytest.approx(expected, abs=0.04)


def test_separability_of_a_handful_is_nan() -> None:
    assert math.isnan(separability(torch.randn(4, 2), torch.randn(50, 2)))
