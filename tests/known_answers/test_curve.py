"""A curve between two networks, and what mode connectivity repair takes from it."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.views import ModelView
from gifthorse.defenses.sanitization.mcr import Mcr
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.curve import Curve, estimate_statistics
from gifthorse.training.loop import Batch
from worlds import linear_classifier, noise_images

SHORT = Mcr(epochs=2, curve_epochs=2, schedule="constant", samples=0, batch_size=16, lr=0.05)
SHAPE = (1, 12, 12)


def network(seed: int) -> Classifier:
    return SmallCnn(width=4).build(SHAPE, 3, seed).eval()


def curve_of(seed: int = 0) -> Curve:
    return Curve(network(0), network(1), torch.Generator().manual_seed(seed))


def bent(seed: int = 0) -> Curve:
    """One whose θ is not in the middle."""
    curve, random = curve_of(seed), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in curve.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=random))
    return curve


def close(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_the_curve_is_beziers_and_starts_straight() -> None:
    first, last = (dict(network(seed).named_parameters()) for seed in (0, 1))
    straight = curve_of()
    for t in (0.0, 0.3, 0.5, 1.0):
        assert close(straight.weights(t), {name: (1 - t) * first[name] + t * last[name] for name in first})
    curve = bent()
    theta = dict(curve.bend.named_parameters())
    assert close(curve.weights(0), first)
    assert close(curve.weights(1), last)
    quarter = {name: 0.5625 * first[name] + 0.375 * theta[name] + 0.0625 * last[name] for name in first}
    assert close(curve.weights(0.25), quarter)


def test_theta_alone_is_trained_and_every_pass_is_at_another_place() -> None:
    curve, images = bent().eval(), noise_images(8, SHAPE, 3)
    assert len(list(curve.parameters())) == len(list(network(0).parameters()))
    places = torch.Generator().manual_seed(0)
    for _ in range(3):
        t = float(torch.rand((), generator=places))
        logits = curve(images.floats())
        plain = network(0)
        plain.load_state_dict({**plain.state_dict(), **curve.weights(t)})
        assert torch.allclose(logits, plain(images.floats()), atol=1e-5)
    logits.sum().backward()
    assert all(weight.grad is not None for weight in curve.parameters())
    assert all(weight.grad is None for end in curve._ends for weight in end.values())


def test_the_loss_is_cross_entropy_and_weight_decay_of_the_network_on_the_curve() -> None:
    images = noise_images(8, SHAPE, 3)
    batch = Batch(images.floats(), images.labels)
    for decay in (0.0, 0.01):
        curve = bent().eval()
        found = SHORT.changed(weight_decay=decay).training(curve)(nn.Identity(), batch)
        t = float(torch.rand((), generator=torch.Generator().manual_seed(0)))
        plain = network(0)
        plain.load_state_dict({**plain.state_dict(), **curve.weights(t)})
        norm = sum((weight.square().sum() for weight in plain.parameters()), torch.zeros(()))
        assert torch.allclose(found, cross_entropy(plain(batch.pixels), batch.labels) + decay / 2 * norm, rtol=1e-5)
        assert decay == 0 or decay / 2 * norm > 0.1
    assert SHORT.weight_decay > 0


def test_statistics_are_those_of_the_images_and_nothing_else_changes() -> None:
    model, noise = network(0), noise_images(150, SHAPE, 3)
    images = replace(noise, pixels=noise.pixels // 3)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    convolution, norm = model.network.get_submodule("stage1")[:2]  # type: ignore[index]
    momentum = norm.momentum
    estimate_statistics(model, images)
    maps = convolution(model.normalise(images.floats())).detach()
    assert torch.allclose(norm.running_mean, maps.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, maps.var((0, 2, 3)), rtol=0.02)
    assert not torch.allclose(norm.running_mean, before["network.stage1.1.running_mean"], atol=1e-3)
    assert norm.momentum == momentum
    assert not any(module.training for module in model.modules())
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}


def test_a_network_on_the_curve_has_its_weights_and_statistics_and_leaves_the_curve_alone() -> None:
    curve, images = bent(), noise_images(48, SHAPE, 3)
    before = {name: each.clone() for name, each in curve.state_dict().items()}
    found = curve.at(0.3, images)
    assert close(dict(found.named_parameters()), curve.weights(0.3))
    again = found.clone()
    estimate_statistics(again, images)
    assert torch.allclose(predict(again, images), predict(found, images), atol=1e-4)
    assert all(torch.equal(each, before[name]) for name, each in curve.state_dict().items())


def test_a_network_without_batch_normalisation_is_left_as_it_is() -> None:
    model = linear_classifier(torch.ones(3, 1, 4, 4), torch.zeros(3))
    estimate_statistics(model, noise_images(5, (1, 4, 4), 3))
    assert torch.equal(model.head.weight, torch.ones(3, 16))


def test_training_makes_the_networks_of_the_curve_better() -> None:
    """Between two networks that know nothing of each other the straight way is bad everywhere."""
    images = noise_images(48, SHAPE, 3)
    trained = SHORT.changed(epochs=30, curve_epochs=30, lr=0.05, weight_decay=0.0)
    ends = [network(0), network(1)]
    for end in ends:
        trained.tune(end, images, 0)
    curve = Curve(ends[0], ends[1], torch.Generator().manual_seed(0))

    def worst() -> float:
        networks = [curve.at(t, images) for t in (0.3, 0.5, 0.7)]
        return max(float(cross_entropy(predict(each, images), images.labels)) for each in networks)

    before = worst()
    trained.tune(curve, images, 0, objective=trained.training(curve))
    assert worst() < 0.5 * before


class Line(Curve):
    """Networks whose accuracy is known: between two places every image gets its class, elsewhere class 0."""

    def __init__(self, good: tuple[float, float]):
        super().__init__(rows(1.0), rows(1.0), torch.Generator())
        self.good = good
        self.asked: list[float] = []

    def at(self, t: float, images: Images) -> Classifier:
        self.asked.append(t)
        return rows(1.0 if self.good[0] <= t <= self.good[1] else 0.0)


def rows(weight: float) -> Classifier:
    """Each class sums the light of its own row."""
    return linear_classifier(weight * torch.eye(4).view(4, 1, 4, 1).expand(4, 1, 4, 4), torch.zeros(4))


@pytest.mark.parametrize(
    ("good", "asked"),
    [((0.0, 1.0), [0.5]), ((0.4, 0.45), [0.5, 0.55, 0.45]), ((0.55, 1.0), [0.5, 0.55]), ((2.0, 2.0), None)],
)
def test_the_place_nearest_to_the_middle_that_is_accurate_is_taken(
    good: tuple[float, float], asked: list[float] | None
) -> None:
    labels = torch.arange(40) % 4
    pixels = torch.zeros(40, 1, 4, 4, dtype=torch.uint8)
    pixels[torch.arange(40), 0, labels] = 200
    images, line = Images(pixels, labels, 4), Line(good)
    found = Mcr().chosen(line, rows(1.0), images, images)
    assert asked is None or line.asked == asked
    assert asked is not None or len(line.asked) == 19
    assert torch.equal(found.head.weight, rows(0.0 if asked is None else 1.0).head.weight)
    empty = Line((2.0, 2.0))
    Mcr().chosen(empty, rows(1.0), images, images.take(slice(0)))
    assert empty.asked == [0.5], "without images to choose by it is the middle"


def test_the_place_is_chosen_on_images_of_every_class_that_nothing_was_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view, seen = ModelView(network(0), noise_images(60, SHAPE, 3)), list[tuple[Images, Images]]()

    def noted(_: Mcr, curve: Curve, __: Classifier, images: Images, validated: Images) -> Classifier:
        seen.append((images, validated))
        return curve.at(0.5, images)

    monkeypatch.setattr(Mcr, "chosen", noted)
    SHORT.defend(view, 0)
    ((images, validated),) = seen
    assert torch.bincount(images.labels).tolist() == [16, 16, 16]
    assert torch.bincount(validated.labels).tolist() == [4, 4, 4]
    assert len(torch.cat([images.pixels, validated.pixels]).flatten(1).unique(dim=0)) == 60
    few = SHORT.parts(view.clean.take(slice(12)), 0)
    assert (len(few[0]), len(few[1])) == (12, 0), "of four images none can be spared"


def test_the_end_is_tuned_as_fine_tuning_is_or_the_model_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    end, curve = Mcr(), Mcr().along_the_curve()
    assert (end.epochs, end.schedule, end.weight_decay) == (20, (10, 15), 2e-4)
    assert (curve.epochs, curve.schedule, curve.weight_decay) == (200, (100, 150), 0)
    assert (curve.lr, curve.batch_size, curve.samples) == (end.lr, end.batch_size, end.samples) == (0.01, 64, 2000)
    view, ends = ModelView(network(0), noise_images(48, SHAPE, 3)), list[list[dict[str, nn.Parameter]]]()
    start = Curve.__init__

    def noted(self: Curve, *given: object) -> None:
        start(self, *given)  # type: ignore[arg-type]
        ends.append(self._ends)

    monkeypatch.setattr(Curve, "__init__", noted)
    SHORT.defend(view, 0)
    SHORT.changed(end="delivered").defend(view, 0)
    delivered = dict(view.model.named_parameters())
    assert close(ends[0][0], delivered)
    assert not any(torch.allclose(ends[0][1][name], delivered[name], atol=1e-6) for name in delivered)
    assert close(ends[1][0], delivered)
    assert close(ends[1][1], delivered)


def test_four_images_are_enough() -> None:
    view = ModelView(network(0), noise_images(4, SHAPE, 3))
    assert SHORT.skip(view) is None
    assert predict(SHORT.defend(view, 0).model, view.clean).isfinite().all()
    assert SHORT.skip(replace(view, clean=view.clean.take(slice(3)))) is not None
