"""Adversarial search and training: where the answer is known, and against an independent library."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.pgd import Pgd
from gifthorse.core.recipe import AdversarialRecipe, Recipe, StandardRecipe
from gifthorse.core.task import Task
from gifthorse.training.adversarial import perturb
from gifthorse.training.loop import fit
from gifthorse.training.scratch import train
from worlds import digits_task, linear_classifier, noise_images, noise_task

LINF = Pgd(norm="linf", radius=0.1, step_size=0.03, steps=8)
L2 = Pgd(norm="l2", radius=1.0, step_size=0.3, steps=12)


def linear_world() -> tuple[Classifier, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 1, 6, 6, generator=random)
    pixels = 0.3 + 0.4 * noise_images(20, (1, 6, 6), 2).floats()
    return linear_classifier(weight, torch.zeros(2)), pixels, torch.arange(20) % 2, weight[1] - weight[0]


@pytest.mark.parametrize("adversary", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize("start", ["random", "image"])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_search_finds_the_optimum_of_a_linear_model(adversary: Pgd, start: str, targeted: bool) -> None:
    model, pixels, labels, gap = linear_world()
    search = adversary.changed(start=start, targeted=targeted)
    found = perturb(model, pixels, labels, search, torch.Generator().manual_seed(0))
    side = torch.where((labels == 0) != targeted, 1.0, -1.0).view(-1, 1, 1, 1)
    best = adversary.radius * (gap.sign() if adversary.norm == "linf" else gap / gap.norm())
    expected = pixels + side * best

    def margin(inputs: Tensor) -> Tensor:
        return (side * gap * inputs).sum((1, 2, 3))

    reached, possible = margin(found) - margin(pixels), margin(expected) - margin(pixels)
    assert (reached >= 0.97 * possible).all()
    assert (reached <= 1.001 * possible).all()


@pytest.mark.parametrize("adversary", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize(
    "said", [{}, {"returned": "best"}, {"start": "image"}, {"start": "image", "targeted": True, "returned": "best"}]
)
def test_the_search_stays_in_the_ball_and_in_the_image_and_leaves_the_model_alone(
    adversary: Pgd, said: dict[str, object], benign: Classifier, task: Task
) -> None:
    model = benign.clone().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pixels, labels = task.test.floats()[:32], task.test.labels[:32]
    given = pixels.clone()
    found = perturb(model, pixels, labels, adversary.changed(**said), torch.Generator())
    assert torch.equal(pixels, given)
    assert not pixels.requires_grad
    offset = (found - pixels).flatten(1)
    size = offset.abs().amax(1) if adversary.norm == "linf" else offset.norm(dim=1)
    assert (size <= adversary.radius + 1e-5).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert not found.requires_grad
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_best_point_is_never_worse_than_the_last(benign: Classifier, task: Task) -> None:
    pixels, labels = task.test.floats()[:100], task.test.labels[:100]
    coarse = Pgd(radius=0.1, step_size=0.2, steps=5)

    def loss(**said: object) -> Tensor:
        found = perturb(benign, pixels, labels, coarse.changed(**said), torch.Generator().manual_seed(0))
        return cross_entropy(predict(benign, found), labels, reduction="none")

    assert (loss(returned="best") >= loss() - 1e-2).all()
    assert (loss(returned="best", targeted=True) <= loss(targeted=True) + 1e-2).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_one_step_from_the_image_is_the_one_computed_by_hand(norm: str, targeted: bool) -> None:
    """With two classes the gradient is along the gap between their weights; bfloat16 may carry it."""
    weight = torch.tensor([[0.3, -0.2, 0.0, 0.4], [0.1, 0.5, 0.0, -0.6]]).view(2, 1, 2, 2)
    model, pixels = linear_classifier(weight, torch.zeros(2)), torch.full((1, 1, 2, 2), 0.5)
    search = LINF.changed(norm=norm, radius=0.05, step_size=0.04, steps=1, start="image", targeted=targeted)
    away = weight[1] - weight[0]
    direction = away.sign() if norm == "linf" else away / away.norm()
    expected = pixels + (-0.04 if targeted else 0.04) * direction
    assert torch.allclose(perturb(model, pixels, torch.tensor([0]), search), expected, atol=3e-4)
    far = perturb(model, pixels, torch.tensor([0]), search.changed(step_size=0.2))
    assert torch.allclose(far, pixels + (expected - pixels) * 0.05 / 0.04, atol=3e-4)


@pytest.mark.parametrize("adversary", [LINF, L2], ids=["linf", "l2"])
def test_a_targeted_search_brings_images_to_a_class_and_starts_at_them(
    adversary: Pgd, benign: Classifier, task: Task
) -> None:
    pixels = task.test.floats()[:40]
    wanted = torch.full((40,), 3)
    search = adversary.changed(radius=adversary.radius * 5, start="image", targeted=True)
    found = perturb(benign, pixels, wanted, search)
    assert torch.equal(found, perturb(benign, pixels, wanted, search, torch.Generator().manual_seed(5)))
    before, after = (cross_entropy(predict(benign, x), wanted, reduction="none") for x in (pixels, found))
    assert (after <= before).all()
    assert float((predict(benign, found).argmax(1) == 3).float().mean()) > 0.9


def test_a_random_start_needs_a_generator() -> None:
    model, pixels, labels, _ = linear_world()
    with pytest.raises(ValueError, match="needs a generator"):
        perturb(model, pixels, labels, LINF)


def test_a_recipe_keeps_its_fields_and_gives_its_search() -> None:
    own = list(AdversarialRecipe().to_dict())
    assert own == [*StandardRecipe().to_dict(), "norm", "radius", "step_size", "steps", "start", "returned"]
    recipe = AdversarialRecipe(norm="l2", radius=0.5, step_size=0.1, steps=3)
    assert recipe.search() == Pgd(norm="l2", radius=0.5, step_size=0.1, steps=3, start="random", returned="last")
    assert recipe.search(targeted=True, start="image").changed(start="random", targeted=False) == recipe.search()
    aegis = AdversarialRecipe(start="image", returned="best")
    assert (aegis.search().start, aegis.search().returned, aegis.search().targeted) == ("image", "best", False)


def test_training_searches_as_its_recipe_says() -> None:
    """With steps of next to nothing, an adversary that starts at the image changes nothing, another one does."""
    task = noise_task((1, 12, 12))

    def trained(recipe: Recipe) -> Tensor:
        model = task.build(0)
        fit(model, task.train, recipe, 0)
        return model.head.weight.detach()

    plain = trained(StandardRecipe(epochs=2, batch_size=32))
    quick = AdversarialRecipe(epochs=2, batch_size=32, radius=0.3, steps=1, step_size=1e-9)
    torch.testing.assert_close(trained(quick.changed(start="image")), plain, atol=1e-3, rtol=0)
    assert (trained(quick) - plain).abs().max() > 0.01


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
    adversary = Pgd(norm="l2", radius=0.5, step_size=0.125, steps=12, returned="best")
    accuracies = []
    for model in (standard, trained):
        found = perturb(model, pixels, labels, adversary, torch.Generator().manual_seed(0))
        accuracies.append(float((predict(model, found).argmax(1) == labels).float().mean()))
    assert accuracies[1] > accuracies[0] + 0.15
