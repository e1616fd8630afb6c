"""Reformations and filters in worlds whose answer is known."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from gifthorse.core.classifier import predict
from gifthorse.core.images import Images, to_levels
from gifthorse.core.views import DataFreeView, Materials, ModelView
from gifthorse.defenses.filtering.reconstruction_filter import ReconstructionFilter
from gifthorse.defenses.reformation.down_up_sampling import DownUpSampling
from gifthorse.defenses.reformation.manifold_projection import AutoEncoder, ManifoldProjection, Projection
from gifthorse.defenses.reformation.randomized_smoothing import RandomizedSmoothing
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.autoencoder import Autoencoder, Autoencoding
from gifthorse.training.scratch import FromScratch
from worlds import digits_world, linear_classifier, noise_images, noise_task


def slopes(count: int, seed: int = 0, shape: tuple[int, int] = (8, 8)) -> Images:
    """Images whose light rises evenly in some direction: nothing in them is finer than the image."""
    random = torch.Generator().manual_seed(seed)
    along, across, start = torch.rand(3, count, 1, 1, generator=random)
    rows, columns = torch.linspace(0, 0.5, shape[0]).view(1, -1, 1), torch.linspace(0, 0.5, shape[1]).view(1, 1, -1)
    light = (start * 0.2 + along * rows + across * columns).unsqueeze(1)
    return Images(to_levels(light), torch.arange(count) % 2, 2)


def materials(clean: Images) -> Materials:
    task = noise_task((1, 8, 8))
    return Materials(clean, FromScratch(task.architecture, task.recipe))


# Randomized smoothing.


def two_sided(weight: Tensor) -> DataFreeView:
    """Two classes; the margin of the second is a linear function of the pixels."""
    channels, height, width = weight.shape
    model = linear_classifier(torch.stack([torch.zeros_like(weight), weight]), torch.zeros(2))
    return DataFreeView(model, shape=(channels, height, width))


def test_the_answer_is_the_mean_probability_over_gaussian_noise() -> None:
    """Where noise moves the margin 1 by 1: 0.697 in the mean; without noise 0.731, by votes 0.841."""
    weight = torch.full((1, 10, 10), 10.0)
    view, pixels = two_sided(weight), torch.full((1, 1, 10, 10), 1e-3)
    margins = 1 + torch.linspace(-6, 6, 20001)
    density = torch.exp(-((margins - 1) ** 2) / 2)
    expected = float((density * margins.sigmoid()).sum() / density.sum())
    answer = RandomizedSmoothing(samples=4000, std=0.01).defend(view, 0).model(pixels)
    assert answer.exp().sum() == pytest.approx(1)
    assert float(answer.exp()[0, 1]) == pytest.approx(expected, abs=0.012)
    assert expected == pytest.approx(0.697, abs=0.001)


def test_noise_has_the_stated_deviation_and_is_the_same_for_every_image() -> None:
    view = two_sided(torch.ones(3, 40, 40))
    smoothed = RandomizedSmoothing(std=0.05).defend(view, 0)
    assert smoothed.reform is not None
    pixels = noise_images(3, (3, 40, 40), 2).floats()
    noise = smoothed.reform(pixels) - pixels
    torch.testing.assert_close(noise[1:], noise[:-1], atol=1e-6, rtol=0)
    assert float(noise[0].std()) == pytest.approx(0.05, rel=0.03)
    assert abs(float(noise[0].mean())) < 0.005
    other = RandomizedSmoothing(std=0.05).defend(view, 1).reform
    assert other is not None
    assert not torch.equal(other(pixels), smoothed.reform(pixels))


@pytest.mark.parametrize("count", [1, 3, 200])
def test_every_copy_is_answered_once_in_passes_that_fit(count: int) -> None:
    view = two_sided(torch.ones(1, 6, 6))
    model = RandomizedSmoothing(samples=30).defend(view, 0).model
    passes: list[int] = []
    inner = model.model
    assert isinstance(inner, nn.Module)
    inner.register_forward_pre_hook(lambda _, pixels: passes.append(len(pixels[0])))
    assert model(torch.rand(count, 1, 6, 6)).shape == (count, 2)
    assert sum(passes) == 30 * count
    assert max(passes) <= 64


# Down-upsampling.


def resized(size: int, wanted: int) -> Tensor:
    """A row of weights per new pixel: a triangle over its place, as wide as two pixels of the coarser of both grids."""
    scale = size / wanted
    centres, places = (torch.arange(wanted) + 0.5) * scale, torch.arange(size) + 0.5
    weight = (1 - (places - centres.unsqueeze(1)).abs() / max(scale, 1)).clamp_min(0)
    return weight / weight.sum(1, keepdim=True)


@pytest.mark.parametrize(("ratio", "height", "width"), [(0.95, 25, 27), (0.5, 13, 14)])
def test_an_image_is_made_smaller_by_the_ratio_without_aliasing_and_as_large_again(
    ratio: float, height: int, width: int
) -> None:
    pixels = noise_images(4, (2, 27, 29), 2).floats()
    down_rows, down_columns = resized(27, height), resized(29, width)
    rows, columns = resized(height, 27) @ down_rows, resized(width, 29) @ down_columns
    expected = rows @ pixels @ columns.T
    view = two_sided(torch.randn(2, 27, 29, generator=torch.Generator().manual_seed(0)))
    defended = DownUpSampling(ratio=ratio).defend(view, 0)
    assert defended.reform is not None
    torch.testing.assert_close(defended.reform(pixels), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(defended.model(pixels), view.model(expected), atol=1e-4, rtol=0)


def test_any_image_loses_something_of_what_is_as_fine_as_a_pixel() -> None:
    reform = DownUpSampling().defend(two_sided(torch.ones(1, 8, 8)), 0).reform
    assert reform is not None
    board = ((torch.arange(8).view(-1, 1) + torch.arange(8)) % 2).float().view(1, 1, 8, 8)
    assert float(reform(board).std()) < 0.8 * float(board.std())
    assert reform(torch.rand(2, 1, 1, 1)).shape == (2, 1, 1, 1)


# Autoencoders.


def layers(settings: Autoencoding, colours: int) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    found = [
        each for each in Autoencoder(settings, colours).modules() if isinstance(each, nn.Conv2d | nn.ConvTranspose2d)
    ]
    return [
        (type(each).__name__, (each.in_channels, each.out_channels), (*each.kernel_size, *each.stride))
        for each in found
    ]


def test_the_manifold_projector_keeps_the_size_in_32_channels() -> None:
    """MagNet's structure [32]: 3×3 convolutions, to 32 channels, within them, and back; no bottleneck."""
    kept = (3, 3, 1, 1)
    expected = [("Conv2d", (3, 32), kept), ("Conv2d", (32, 32), kept), ("Conv2d", (32, 3), kept)]
    assert layers(ManifoldProjection(), 3) == expected


def test_the_convolutional_autoencoder_halves_the_image_three_times_and_doubles_it_again() -> None:
    halves = (4, 4, 2, 2)
    down = [("Conv2d", pair, halves) for pair in ((3, 12), (12, 24), (24, 48))]
    up = [("ConvTranspose2d", pair, halves) for pair in ((48, 24), (24, 12), (12, 3))]
    assert layers(AutoEncoder(), 3) == down + up


@pytest.mark.parametrize("settings", [ManifoldProjection(), AutoEncoder()], ids=lambda settings: settings.name)
def test_a_reconstruction_is_an_image_of_the_same_size_whatever_that_is(settings: Projection) -> None:
    network = Autoencoder(settings, 2)
    for shape in ((1, 2, 8, 8), (3, 2, 5, 17), (1, 2, 1, 1)):
        answer = network(torch.rand(shape)).detach()
        assert answer.shape == shape
        assert 0 <= float(answer.min()) <= float(answer.max()) <= 1


def test_an_autoencoder_learns_to_take_away_noise_where_it_is_trained_with_noise() -> None:
    """On digits that it has not seen."""
    clean, fresh = digits_world().task.holdout, digits_world().task.test.floats()[:100]
    random = torch.Generator().manual_seed(0)
    noisy = (fresh + 0.1 * torch.randn(fresh.shape, generator=random)).clamp(0, 1)
    left = {}
    for noise in (0.0, 0.1):
        settings = ManifoldProjection(noise=noise, epochs=15, batch_size=16, lr=0.01)
        network = settings.autoencoder(settings.prepare(materials(clean), 0), 1, torch.device("cpu"))
        left[noise] = float(mse_loss(network(noisy), fresh) / mse_loss(noisy, fresh))
        assert mse_loss(network(fresh), fresh) < 5e-3
    assert left[0.1] < 0.35
    assert left[0.0] > 1.15 * left[0.1]


def test_what_an_autoencoder_is_trained_on_is_noisy_by_the_stated_deviation_and_stays_an_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grey = Images(torch.full((64, 1, 16, 16), 128, dtype=torch.uint8), torch.zeros(64, dtype=torch.long), 2)
    shown: list[Tensor] = []
    forward = Autoencoder.forward

    def watched(self: Autoencoder, pixels: Tensor) -> Tensor:
        shown.append(pixels)
        return forward(self, pixels)

    monkeypatch.setattr(Autoencoder, "forward", watched)
    for noise, deviation in ((0.1, 0.1), (0.0, 0.0), (5.0, 0.49)):
        shown.clear()
        ManifoldProjection(noise=noise, epochs=2).prepare(materials(grey), 0)
        seen = torch.cat(shown)
        assert seen.shape == (128, 1, 16, 16)
        assert float(seen.std()) == pytest.approx(deviation, abs=0.01)
        assert float(seen.mean()) == pytest.approx(128 / 255, abs=0.01)
        assert 0 <= float(seen.min()) <= float(seen.max()) <= 1


def test_the_autoencoder_stands_in_front_of_the_model_as_it_was_prepared() -> None:
    clean = slopes(40)
    settings = AutoEncoder(epochs=3, lr=0.01)
    model = SmallCnn(width=2, embedding=4).build((1, 8, 8), 2, 0).eval()
    prepared = settings.prepare(materials(clean), 0)
    defended = settings.defend(ModelView(model, clean, prepared=prepared), 5)
    assert defended.reform is not None
    network = settings.autoencoder(prepared, 1, torch.device("cpu"))
    pixels = slopes(6, seed=1).floats()
    torch.testing.assert_close(defended.reform(pixels), network(pixels))
    torch.testing.assert_close(defended.model(pixels), model(network(pixels)))
    assert not torch.equal(defended.reform(pixels), pixels)


# Filtering by reconstruction.


def trained_filter(clean: Images, **fields: object) -> tuple[ReconstructionFilter, Mapping[str, Tensor], ModelView]:
    settings = ReconstructionFilter(epochs=20, batch_size=16, lr=0.01).changed(**fields)
    prepared = settings.prepare(materials(clean), 0)
    weight = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    view = ModelView(linear_classifier(weight, torch.zeros(2)), clean, prepared=prepared)
    return settings, prepared, view


def test_what_no_clean_image_shows_is_far_from_its_reconstruction() -> None:
    clean = slopes(160)
    for fields in ({"power": 1}, {"power": 2}):
        settings, prepared, view = trained_filter(clean, **fields)
        screen = settings.defend(view, 0)
        fresh = slopes(300, seed=1).floats()
        stamped = fresh.clone()
        stamped[:, :, 2:5, 2:5] = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
        assert (screen.score(stamped) > screen.threshold).all()
        assert float((screen.score(fresh) > screen.threshold).float().mean()) < 0.12
        away = fresh - settings.autoencoder(prepared, 1, torch.device("cpu"))(fresh)
        expected = away.abs().mean((1, 2, 3)) if fields["power"] == 1 else away.square().mean((1, 2, 3))
        torch.testing.assert_close(screen.score(fresh), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("temperature", [10.0, 40.0])
def test_a_divergence_is_jensens_and_shannons_between_softened_answers(temperature: float) -> None:
    from scipy.spatial.distance import jensenshannon

    settings, prepared, view = trained_filter(slopes(80), score="divergence", temperature=temperature)
    pixels = noise_images(9, (1, 8, 8), 2).floats()
    again = settings.autoencoder(prepared, 1, torch.device("cpu"))(pixels)
    answers = [(predict(view.model, each).double() / temperature).softmax(1).numpy() for each in (pixels, again)]
    expected = jensenshannon(*answers, axis=1) ** 2
    torch.testing.assert_close(
        settings.defend(view, 0).score(pixels).double(), torch.tensor(expected), atol=1e-6, rtol=0
    )


def test_the_threshold_is_set_on_clean_images_that_the_autoencoder_was_not_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that it has learnt by heart are nearer than any other image."""
    clean, seen = noise_images(100, (1, 8, 8), 2), []
    train = ReconstructionFilter.train_autoencoder

    def watched(self: ReconstructionFilter, images: Images, seed: int) -> dict[str, Tensor]:
        seen.append(images)
        return train(self, images, seed)

    monkeypatch.setattr(ReconstructionFilter, "train_autoencoder", watched)
    settings, _, view = trained_filter(clean, calibration=0.4, fpr=0.1)
    (trained,) = seen
    unseen = ~(clean.pixels.unsqueeze(1) == trained.pixels).flatten(2).all(2).any(1)
    assert (len(trained), int(unseen.sum())) == (60, 40)
    for seed in (0, 1):
        screen = settings.defend(view, seed)
        scores = screen.score(clean.floats()[unseen]).sort().values
        assert screen.threshold == pytest.approx(float(scores[math.ceil(0.9 * 39)]))


@pytest.mark.parametrize(
    ("fields", "needed"), [({}, 40), ({"fpr": 0.001}, 2000), ({"calibration": 0.9, "fpr": 0.5}, 3)]
)
def test_too_few_images_for_the_false_positive_rate_are_told_with_their_number(
    fields: dict[str, float], needed: int
) -> None:
    settings = ReconstructionFilter().changed(**fields)
    images = noise_images(max(needed, 1), (1, 4, 4), 2)
    view = ModelView(linear_classifier(torch.zeros(2, 1, 4, 4), torch.zeros(2)), images)
    assert settings.skip(view) is None
    fewer = ModelView(view.model, images.take(slice(needed - 1)))
    rate = f"{settings.fpr:g}"
    assert (
        settings.skip(fewer)
        == f"needs {needed} clean images for a false positive rate of {rate}; there are {needed - 1}"
    )


def test_scores_and_thresholds_share_one_autoencoder_and_other_images_do_not() -> None:
    base = ReconstructionFilter()
    for same in ({"fpr": 0.1}, {"score": "divergence"}, {"power": 2}, {"temperature": 40.0}):
        assert base.changed(**same).preparation() == base.preparation()
    for other in ({"calibration": 0.4}, {"noise": 0.2}, {"structure": [16]}, {"epochs": 3}):
        assert base.changed(**other).preparation() != base.preparation()
