"""Adversarial search and training: where the answer is known, and against an independent library."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.recipe import AdversarialRecipe, StandardRecipe
from gifthorse.core.task import Task
from gifthorse.training.adversarial import perturb
from gifthorse.training.loop import fit
from gifthorse.training.scratch import train
from worlds import digits_task, linear_classifier, noise_images

LINF = AdversarialRecipe(norm="linf", radius=0.1, step_size=0.03, steps=8)
L2 = AdversarialRecipe(norm="l2", radius=1.0, step_size=0.3, steps=12)


def linear_world() -> tuple[Classifier, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 1, 6, 6, generator=random)
    pixels = 0.3 + 0.4 * noise_images(20, (1, 6, 6), 2).floats()
    return linear_classifier(weight, torch.zeros(2)), pixels, torch.arange(20) % 2, weight[1] - weight[0]


@pytest.mark.parametrize("adversary", [LINF, L2], ids=["linf", "l2"])
def test_the_search_finds_the_optimum_of_a_linear_model(adversary: AdversarialRecipe) -> None:
    model, pixels, labels, gap = linear_world()
    found = perturb(model, pixels, labels, adversary, torch.Generator().manual_seed(0))
    side = torch.where(labels == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    best = adversary.radius * (gap.sign() if adversary.norm == "linf" else gap / gap.norm())
    expected = pixels + side * best

    def margin(inputs: Tensor) -> Tensor:
        return (side * gap * inputs).sum((1, 2, 3))

    reached, possible = margin(found) - margin(pixels), margin(expected) - margin(pixels)
    assert (reached >= 0.97 * possible).all()
    assert (reached <= 1.001 * possible).all()


@pytest.mark.parametrize("adversary", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize("keep_best", [False, True])
def test_the_search_stays_in_the_ball_and_in_the_image_and_leaves_the_model_alone(
    adversary: AdversarialRecipe, keep_best: bool, benign: Classifier, task: Task
) -> None:
    model = benign.clone().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pixels, labels = task.test.floats()[:32], task.test.labels[:32]
    found = perturb(model, pixels, labels, adversary, torch.Generator(), keep_best=keep_best)
    offset = (found - pixels).flatten(1)
    size = offset.abs().amax(1) if adversary.norm == "linf" else offset.norm(dim=1)
    assert (size <= adversary.radius + 1e-5).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert not found.requires_grad
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_keeping_the_best_is_never_worse(benign: Classifier, task: Task) -> None:
    pixels, labels = task.test.floats()[:100], task.test.labels[:100]
    coarse = AdversarialRecipe(radius=0.1, step_size=0.2, steps=5)

    def loss(keep_best: bool) -> Tensor:
        found = perturb(benign, pixels, labels, coarse, torch.Generator().manual_seed(0), keep_best=keep_best)
        return torch.nn.functional.cross_entropy(predict(benign, found), labels, reduction="none")

    assert (loss(True) >= loss(False) - 1e-2).all()


@pytest.fixture(scope="module")
def robust() -> tuple[Task, Classifier, Classifier]:
    """Digits at smoke scale, trained as they are and against an l2 adversary."""
    task = digits_task()
    recipe = AdversarialRecipe.from_dict(
        {**task.recipe.to_dict(), "epochs": 12, "norm": "l2", "radius": 0.5, "step_size": 0.25, "steps": 3}
    )
    models = []
    for chosen in (StandardRecipe.from_dict({**task.recipe.to_dict(), "epochs": 12}), recipe):
        model = task.build(0)
        fit(model, task.train, chosen, 0)
        models.append(model)
    return task, models[0], models[1]


def accuracy_under_their_attack(model: Classifier, images: Images, radius: float) -> float:
    """Return the accuracy under 20 steps of l2 PGD of the Adversarial Robustness Toolbox, the better of two starts."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), images.shape, images.classes, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = ProjectedGradientDescentPyTorch(
        estimator, norm=2, eps=radius, eps_step=radius / 5, max_iter=20, num_random_init=2, verbose=False
    )
    found = attack.generate(images.floats().contiguous().numpy(), images.labels.numpy())
    return float((predict(model, torch.from_numpy(found)).argmax(1) == images.labels).float().mean())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the other library, under this NumPy
def test_adversarial_training_withstands_a_stronger_attack_of_another_library(
    robust: tuple[Task, Classifier, Classifier],
) -> None:
    task, standard, trained = robust
    images = task.test.take(slice(120))
    weak, strong = (accuracy_under_their_attack(model, images, 0.5) for model in (standard, trained))
    assert strong > weak + 0.15
    assert strong > 0.5
    assert float((predict(trained, task.test).argmax(1) == task.test.labels).float().mean()) > 0.85


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_adversarial_training_withstands_a_stronger_attack_on_mnist(real_data: Path) -> None:
    """By the laptop profile, which trains at a radius of 0.5; measured are 500 images at three times that radius."""
    accuracies = []
    for training in ("standard", "adversarial"):
        cell = resolve(dataset="mnist", training=training)
        task = Task(**vars(cell.dataset.load(real_data)), architecture=cell.model, recipe=cell.training)
        accuracies.append(accuracy_under_their_attack(train(task, 0), task.test.take(slice(500)), 1.5))
    standard, robust = accuracies
    assert robust > standard + 0.15


def test_our_measure_agrees_with_the_other_librarys_order(robust: tuple[Task, Classifier, Classifier]) -> None:
    task, standard, trained = robust
    pixels, labels = task.test.floats(), task.test.labels
    adversary = AdversarialRecipe(norm="l2", radius=0.5, step_size=0.125, steps=12)
    accuracies = []
    for model in (standard, trained):
        found = perturb(model, pixels, labels, adversary, torch.Generator().manual_seed(0), keep_best=True)
        accuracies.append(float((predict(model, found).argmax(1) == labels).float().mean()))
    assert accuracies[1] > accuracies[0] + 0.15
