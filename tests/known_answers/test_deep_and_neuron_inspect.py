"""DeepInspect and NeuronInspect in worlds whose answer is known; the defects of published code stay out."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gifthorse.core.anomaly import anomaly_indices
from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.core.metric import METRICS
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.views import ModelView
from gifthorse.defenses.inspection import neuron_inspect
from gifthorse.defenses.inspection.deep_inspect import DeepInspect, Perturbations
from gifthorse.defenses.inspection.neuron_inspect import NeuronInspect, heat_maps, laplacian
from gifthorse.inversion.engine import Trial
from gifthorse.inversion.inspector import credited
from gifthorse.models.small_cnn import SmallCnn
from worlds import linear_classifier, live_pixel_view, noise_images, scores_of

SMALL = {"noise": 8, "embedding": 16, "channels": 8}


@pytest.fixture(scope="module")
def live_pixel_verdict() -> ModelVerdict:
    defense = DeepInspect(batches=20, batch_size=8, size_weight=0.1, **SMALL)
    return defense.defend(live_pixel_view(target=2, row=7, column=5), 0)


def test_deep_inspect_finds_the_one_live_pixel(live_pixel_verdict: ModelVerdict) -> None:
    verdict = live_pixel_verdict
    assert verdict.suspect == 2
    found = verdict.triggers
    assert found is not None
    assert found.perturbation is not None
    change = found.perturbation[2, 0]
    assert int(change.abs().argmax()) == 7 * 8 + 5
    assert change[7, 5] > 0
    assert found.success is not None
    assert found.success.min() > 0.9


def test_perturbations_are_added_and_do_not_replace_the_image() -> None:
    """TrojanZoo's alpha plane is all ones, so that the trigger takes the image's place."""
    pixels = noise_images(3, (3, 6, 5), 3).floats()
    source = Perturbations(DeepInspect(**SMALL), 4, noise_images(3, (3, 6, 5), 3), 0)
    shown = torch.zeros(4, 3, 6, 5)
    shown[1] = 0.25
    shown[2, :, 0, 0] = -1
    stamped = source.stamp(pixels, shown)
    torch.testing.assert_close(stamped[0], pixels)
    torch.testing.assert_close(stamped[1], (pixels + 0.25).clamp(max=1))
    assert not stamped[2, ..., 0, 0].any()
    torch.testing.assert_close(stamped[2, ..., 1:, :], pixels[..., 1:, :])


def test_the_verdict_stamps_and_scores_what_the_generator_made() -> None:
    view = live_pixel_view(target=1, row=6, column=6)
    verdict = DeepInspect(epochs=2, batches=5, **SMALL).defend(view, 0)
    found, pixels = verdict.triggers, view.clean.floats()
    assert found is not None
    assert found.perturbation is not None
    torch.testing.assert_close(found.stamp(pixels, 3), (pixels + found.perturbation[3]).clamp(0, 1))
    sizes = found.perturbation.abs().sum((1, 2, 3))
    torch.testing.assert_close(scores_of(verdict), credited(-sizes, found))
    torch.testing.assert_close(found.mask.sum((1, 2, 3)), sizes)
    assert found.pattern.min() >= 0
    assert found.pattern.max() <= 1


def test_scores_sum_colours_and_the_mask_that_is_shown_averages_them() -> None:
    model = linear_classifier(torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(4))
    view = ModelView(model, noise_images(60, (3, 6, 6), 4))
    verdict = DeepInspect(epochs=2, batches=5, batch_size=8, **SMALL).defend(view, 0)
    assert verdict.triggers is not None
    assert verdict.triggers.perturbation is not None
    assert verdict.triggers.success is not None
    assert verdict.triggers.success.min() > 0.1
    sizes = verdict.triggers.perturbation.abs().sum((1, 2, 3))
    torch.testing.assert_close(-scores_of(verdict), sizes)
    torch.testing.assert_close(verdict.triggers.mask.sum((1, 2, 3)), sizes / 3)


def test_sizes_differ_between_classes(live_pixel_verdict: ModelVerdict) -> None:
    """TrojanZoo reports the number of pixels as the size of every class's trigger, so that the MAD is 0."""
    sizes = -scores_of(live_pixel_verdict)
    assert len(sizes.unique()) == 6
    assert sizes.max() < 0.25 * 64
    assert sizes[2] < 0.3 * sizes.max()


def test_size_sums_colours_and_costs_nothing_below_the_threshold() -> None:
    settings = DeepInspect(size_weight=0.5, size_threshold=3.0, **SMALL)
    images = noise_images(2, (3, 4, 4), 3)
    shown = torch.zeros(2, 3, 4, 4)
    shown[0, 0, 0, :3] = -1
    shown[1, :, :2] = torch.tensor([1.0, -0.5, 0.0]).view(3, 1, 1)
    size = Perturbations(settings, 3, images, 0).size(shown)
    assert size.tolist() == pytest.approx([3, 12])
    logits = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([1, 2])
    answer = lambda stamped: stamped  # noqa: E731
    trial = Trial(targets, targets, shown, size, images.floats(), images.labels, logits, {}, answer)
    entropy = torch.stack([functional.cross_entropy(logits[i], targets[i].expand(2)) for i in range(2)])
    torch.testing.assert_close(settings.loss(trial), entropy + torch.tensor([0.0, 4.5]))


def test_a_heavy_price_makes_perturbations_vanish_and_the_verdict_stays_finite() -> None:
    verdict = DeepInspect(epochs=10, batches=10, size_weight=100.0, **SMALL).defend(live_pixel_view(2, 7, 5), 0)
    assert verdict.triggers is not None
    assert verdict.triggers.mask.max() < 0.2
    assert torch.isfinite(torch.tensor([verdict.index, *verdict.readouts.values()])).all()


def test_noise_is_fresh_in_training_and_fixed_in_the_read_out() -> None:
    """TrojanZoo's code draws one vector and trains and reads with that."""
    source = Perturbations(DeepInspect(**SMALL), 4, noise_images(2, (1, 6, 6), 4), 0)
    classes = torch.arange(4)
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = source(classes), source(classes)
        assert not torch.allclose(first, second, atol=1e-4)
        source.eval()
        assert torch.equal(source(classes), source(classes))
        each = torch.stack([source.generate(classes, draw) for draw in source.read_out])
        torch.testing.assert_close(source(classes), each.mean(0))
    assert len({draw.sum().item() for draw in source.read_out.flatten(0, 1)}) == 16 * 4
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 17), (1, 3, 5)])
def test_the_generator_fits_any_shape(stride: int, shape: tuple[int, int, int]) -> None:
    source = Perturbations(DeepInspect(stride=stride, **SMALL), 3, noise_images(2, shape, 3), 0)
    shown = source(torch.arange(3))
    assert shown.shape == (3, *shape)
    assert shown.abs().max() < 1
    assert shown.abs().amin((0, 1)).min() > 0, "every pixel is reached"


def test_the_generator_has_the_published_layers_and_listens_to_class_and_noise() -> None:
    """TrojanZoo, Table 21 (noise of 100 values) and its code; one for all classes, between -1 and 1."""
    images = noise_images(1, (3, 32, 32), 10)
    with torch.device("meta"):
        source = Perturbations(DeepInspect(), 10, images, 0)
    expected = (10 + 1) * 1000 + (1100 + 1) * 64 * 32 * 32 + 2 * 64 + (64 * 25 + 1) * 32 + 2 * 32 + (32 * 25 + 1) * 3
    assert sum(parameter.numel() for parameter in source.parameters()) == expected
    leaves = [type(each).__name__ for each in source.modules() if not list(each.children())]
    upwards = ["BatchNorm2d", "ReLU", "ConvTranspose2d"]
    assert leaves == ["Linear", "ReLU", "Linear", "Unflatten", *upwards, *upwards, "Tanh"]
    small, noise = Perturbations(DeepInspect(**SMALL), 3, images, 0), torch.rand(2, 8, generator=torch.Generator())
    with torch.no_grad():
        shown = small.generate(torch.tensor([0, 0, 2]), noise[[0, 1, 0]])
    assert shown.min() < 0 < shown.max()
    assert (shown[0] - shown[1:]).abs().amax((1, 2, 3)).min() > 0.01


class Lit(nn.Module):
    """``(N, 1, H, W)`` to how far each pixel is above one half, flat: its gradient is 1 there and 0 elsewhere."""

    def forward(self, pixels: Tensor) -> Tensor:
        return functional.relu(pixels - 0.5).flatten(1)


def lit_classifier(weight: Tensor) -> Classifier:
    """A classifier whose gradient for class k is ``weight[k]`` where the image is lit and 0 where it is dark."""
    head = nn.Linear(weight[0].numel(), len(weight), bias=False)
    with torch.no_grad():
        head.weight.copy_(weight.flatten(1))
    network = nn.Sequential(Lit(), head)
    return Classifier(network, mean=[0.0], std=[1.0], head="1", stages=()).eval()


def test_heat_maps_of_a_linear_model_are_its_weights() -> None:
    weight = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    model, images = linear_classifier(weight, torch.zeros(4)), noise_images(7, (3, 5, 6), 4)
    (maps,) = heat_maps(model, images)
    torch.testing.assert_close(maps, weight.abs().amax(1).expand(7, 4, 5, 6))
    heat = weight.abs().amax(1)
    padded = functional.pad(heat[None], (1, 1, 1, 1), "replicate")[0]
    rough = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:] - 4 * heat
    expected = torch.stack([heat.sum((1, 2)), rough.abs().sum((1, 2)), torch.zeros(4)])
    torch.testing.assert_close(NeuronInspect().features(model, images), expected)
    verdict = NeuronInspect(sparseness=2.0, smoothness=0.5).defend(ModelView(model, images), 0)
    torch.testing.assert_close(scores_of(verdict), -(2 * expected[0] + 0.5 * expected[1]))


def test_a_flat_map_is_smooth_and_a_point_has_the_kernels_norm() -> None:
    maps = torch.ones(1, 2, 5, 5)
    maps[0, 1] = 0
    maps[0, 1, 2, 2] = 1
    assert laplacian(maps).abs().sum((2, 3)).tolist() == [[0, 8]]


def test_heat_maps_are_the_input_gradients_of_the_logits_on_the_clean_images() -> None:
    """TrojanZoo's code explains images that carry the attacker's own trigger."""
    model = SmallCnn(width=4).build((3, 10, 9), 5, 0).eval()
    images = noise_images(6, (3, 10, 9), 5)
    (maps,) = heat_maps(model, images)
    gradients = torch.autograd.functional.jacobian(lambda pixels: model(pixels).sum(0), images.floats())
    assert isinstance(gradients, Tensor)
    torch.testing.assert_close(maps, gradients.abs().amax(2).transpose(0, 1), atol=1e-5, rtol=1e-3)


def test_persistence_counts_the_pixels_that_two_maps_disagree_on() -> None:
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    pixels[0, 0, 0] = 255
    pixels[1, 0, :, 0] = 255
    weight = torch.ones(3, 1, 4, 4)
    weight[1, 0, 0] = 0
    weight[2] *= -5
    images = Images(pixels, torch.tensor([0, 1]), 3)
    found = NeuronInspect().features(lit_classifier(weight), images)
    assert found[2].tolist() == [6, 3, 6]
    assert NeuronInspect(threshold=2.0).features(lit_classifier(weight), images)[2].tolist() == [0, 0, 6]


def test_persistence_does_not_saturate_with_many_images() -> None:
    """The XOR over all images, and Table 21's threshold of 0, count about the same for every class."""
    pixels = torch.zeros(100, 1, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0] = 255
    pixels[::2, 0, 1, 0] = 255
    images = Images(pixels, torch.arange(100) % 3, 3)
    assert NeuronInspect().features(lit_classifier(torch.ones(3, 1, 4, 4)), images)[2].tolist() == [1, 1, 1]


def test_persistence_is_no_whole_number_that_classes_share() -> None:
    """Where more than half of the classes have the same count, their MAD is next to nothing and any index is huge."""
    pixels = torch.zeros(5, 1, 4, 4, dtype=torch.uint8)
    pixels[0, 0, 0] = 255
    pixels[3, 0, 1, :2] = 255
    images = Images(pixels, torch.arange(5) % 3, 3)
    found = NeuronInspect().features(lit_classifier(torch.ones(3, 1, 4, 4)), images)[2]
    assert found.tolist() == [(4 + 0 + 2 + 2) / 4] * 3


FEATURES = ("sparseness", "smoothness", "persistence")


@pytest.mark.parametrize("alone", [None, *FEATURES])
def test_neuron_inspect_finds_the_class_that_one_pixel_explains_by_each_feature(alone: str | None) -> None:
    """One point is sparser than a whole image, has a shorter outline, and is the same in every image."""
    weight = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    weight[4] = 0
    weight[4, 0, 7, 7] = 3
    images = noise_images(60, (1, 8, 8), 6)
    images.pixels[:, :, 7, 7] = 255
    settings = {} if alone is None else {feature: float(feature == alone) for feature in FEATURES}
    verdict = NeuronInspect(**settings).defend(ModelView(lit_classifier(weight), images), 0)  # type: ignore[arg-type]
    assert verdict.suspect == 4
    assert min(verdict.readouts.values()) > 2
    assert verdict.triggers is None


@pytest.mark.parametrize(("size", "batches"), [(1, [1] * 20), (3, [3] * 6 + [2])])
def test_batches_change_nothing(size: int, batches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours in different batches are compared as well."""
    model, images = SmallCnn(width=4).build((1, 8, 8), 4, 0).eval(), noise_images(20, (1, 8, 8), 4)
    whole = NeuronInspect().features(model, images)
    monkeypatch.setattr(neuron_inspect, "LARGEST", size * 4 * 64)
    assert [len(maps) for maps in heat_maps(model, images)] == batches
    torch.testing.assert_close(NeuronInspect().features(model, images), whole)


def test_samples_bound_the_images_that_are_explained() -> None:
    model, images = SmallCnn(width=4).build((1, 8, 8), 4, 0).eval(), noise_images(20, (1, 8, 8), 4)
    view = ModelView(model, images)
    few = [scores_of(NeuronInspect(samples=2).defend(view, seed)) for seed in range(3)]
    assert not torch.equal(few[0], few[1])
    every = [NeuronInspect(samples=20, persistence=0.0).defend(view, seed).scores for seed in range(2)]
    torch.testing.assert_close(every[0], every[1])


@pytest.mark.parametrize("weight", [torch.zeros(5, 1, 6, 6), torch.ones(5, 1, 6, 6)], ids=["no gradient", "all alike"])
def test_scores_are_finite_where_all_classes_are_alike(weight: Tensor) -> None:
    view = ModelView(linear_classifier(weight, torch.zeros(5)), noise_images(20, (1, 6, 6), 5))
    verdict = NeuronInspect().defend(view, 0)
    assert scores_of(verdict).isfinite().all()
    assert verdict.suspect is None
    assert list(verdict.readouts.values()) == [0, 0, 0]


def test_each_feature_is_read_out_under_a_name_that_records_know() -> None:
    model, images = SmallCnn(width=4).build((1, 8, 8), 4, 0).eval(), noise_images(20, (1, 8, 8), 4)
    verdict = NeuronInspect().defend(ModelView(model, images), 0)
    assert {f"defense.aiv_{name}" for name in verdict.readouts} <= METRICS.keys()
    assert list(verdict.readouts) == ["sparseness", "smoothness", "persistence"]
    sparse = NeuronInspect(smoothness=0.0, persistence=0.0).defend(ModelView(model, images), 0)
    assert verdict.readouts["sparseness"] == pytest.approx(float(anomaly_indices(scores_of(sparse)).max()), rel=1e-4)
