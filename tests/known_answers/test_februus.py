"""Grad-CAM, Februus and the attribution detector where what explains an answer is known."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images, to_levels
from gifthorse.core.seeds import isolated
from gifthorse.core.views import Materials, ModelView
from gifthorse.defenses.filtering.attribution_detector import AttributionDetector, Means
from gifthorse.defenses.reformation.februus import THRESHOLDS, Februus, Purification
from gifthorse.inversion.attribution import as_heat, grad_cam
from gifthorse.inversion.frozen import freeze
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training import inpainting
from gifthorse.training.inpainting import Completion, Inpainting
from gifthorse.training.scratch import FromScratch
from worlds import digits_world, linear_classifier, noise_images, noise_task

CPU = torch.device("cpu")


def materials(clean: Images) -> Materials:
    task = noise_task((1, 8, 8))
    return Materials(clean, FromScratch(task.architecture, task.recipe))


def wrapped(*layers: tuple[str, nn.Module], head: str, stages: tuple[str, ...]) -> Classifier:
    network = nn.Sequential(OrderedDict(layers))
    return Classifier(network, mean=[0.0], std=[1.0], head=head, stages=stages).eval().requires_grad_(False)


def averaging(channels: int = 5, classes: int = 3) -> Classifier:
    """A convolution, the mean over places, and a linear head, all random."""
    with isolated(0, "averaging"):
        return wrapped(
            ("maps", nn.Conv2d(1, channels, 3, padding=1)),
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("head", nn.Linear(channels, classes)),
            head="head",
            stages=("maps",),
        )


def showing_pixels(weight: Tensor, bias: Tensor) -> Classifier:
    """A linear model ``weight (K, H, W)`` of a stage whose one map is the image."""
    passing, head = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(weight[0].numel(), len(weight))
    with torch.no_grad():
        passing.weight.fill_(1)
        head.weight.copy_(weight.flatten(1))
        head.bias.copy_(bias)
    return wrapped(("maps", passing), ("flatten", nn.Flatten()), ("head", head), head="head", stages=("maps",))


# Grad-CAM.


def test_behind_a_mean_and_a_linear_head_grad_cam_is_the_maps_weighed_by_the_heads_weights() -> None:
    model, pixels = averaging(), noise_images(7, (1, 6, 9), 3).floats()
    maps, logits = grad_cam(model, pixels, "maps")
    torch.testing.assert_close(logits, model(pixels))
    for labels, found in (
        (logits.argmax(1), maps),
        (torch.arange(7) % 3, grad_cam(model, pixels, "maps", torch.arange(7) % 3)[0]),
    ):
        weighed = model.head.weight[labels][:, :, None, None] * model.stage("maps", pixels)
        torch.testing.assert_close(found, relu(weighed.sum(1)) / 54, atol=1e-6, rtol=1e-4)
    assert (maps > 0).any()


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_grad_cam_is_what_captum_finds(stage: str) -> None:
    attr = pytest.importorskip("captum.attr")
    model, pixels = digits_world().trojan.model.clone(), digits_world().task.test.floats()[:20]
    maps, logits = grad_cam(model.requires_grad_(False), pixels, stage)
    explainer = attr.LayerGradCam(model, model.network.get_submodule(stage))
    found = explainer.attribute(pixels.requires_grad_(), target=logits.argmax(1), relu_attributions=True)
    torch.testing.assert_close(maps, found.squeeze(1).detach(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("stage", ["stage1", "stage3"])
def test_grad_cam_weighs_maps_by_the_mean_slope_of_the_logit(stage: str) -> None:
    """By finite differences: a channel that rises everywhere by h moves the logit by h times the sum of its slopes."""
    model = digits_world().trojan.model.clone().double()
    pixel = digits_world().task.test.floats()[:1].double()
    maps, label = model.stage(stage, pixel).detach(), model(pixel).argmax(1)
    moved = maps + 1e-6 * torch.eye(maps.shape[1], dtype=torch.double)[:, :, None, None]
    ways = (model.continue_from(stage, each, pixel)[:, label].squeeze(1) for each in (moved, maps))
    sums = (next(ways) - next(ways)).detach() / 1e-6
    expected = relu((sums.view(1, -1, 1, 1) * maps).sum(1)) / maps[0, 0].numel()
    found, _ = grad_cam(model.requires_grad_(False), pixel, stage)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_no_image_explains_another_and_inference_mode_is_left_and_entered_again() -> None:
    model, pixels = digits_world().trojan.model.clone().requires_grad_(False), digits_world().task.test.floats()[:9]
    with torch.inference_mode():
        together, _ = grad_cam(model, pixels.clone(), "stage3")
        alone = torch.cat([grad_cam(model, each[None], "stage3")[0] for each in pixels])
        assert torch.is_inference_mode_enabled()
    torch.testing.assert_close(together, alone)
    assert not together.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


def test_what_follows_a_stage_may_work_in_place() -> None:
    layers: dict[bool, Classifier] = {}
    for inplace in (False, True):
        with isolated(0, "place"):
            layers[inplace] = wrapped(
                ("maps", nn.Conv2d(1, 3, 3)),
                ("relu", nn.ReLU(inplace=inplace)),
                ("flatten", nn.Flatten()),
                ("head", nn.Linear(48, 4)),
                head="head",
                stages=("maps",),
            )
    pixels = noise_images(5, (1, 6, 6), 4).floats()
    plain, in_place = (grad_cam(model, pixels, "maps")[0] for model in layers.values())
    torch.testing.assert_close(in_place, plain)


def test_heat_is_the_map_as_large_as_the_image_and_from_0_to_1() -> None:
    maps = torch.tensor([[[1.0, 3.0]], [[5.0, 5.0]], [[0.0, 0.0]]])
    heat = as_heat(maps, (2, 4))
    # Bilinear: the middle of each pixel of four lies at -1/4, 1/4, 3/4, 5/4 of two; past the ends the map is level.
    torch.testing.assert_close(heat[0], torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(2, 4))
    assert (heat[1:] == 0).all()


# Februus.


def bright_world() -> tuple[ModelView, Images]:
    """Three classes: the brightest of three columns decides; every class has the same mean weight."""
    weight = torch.full((3, 6, 6), 0.5)
    for label in range(3):
        weight[label, :, 2 * label] = 2.0
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 120, (120, 1, 6, 6), generator=random, dtype=torch.uint8)
    labels = torch.arange(120) % 3
    pixels[torch.arange(120), 0, :, 2 * labels] += 60
    pixels[torch.arange(120), 0, 5 - labels, 5] = 255
    images = Images(pixels, labels, 3)
    return ModelView(showing_pixels(weight, torch.zeros(3)), images.take(slice(80))), images.take(slice(80, 120))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 1.0])
def test_what_is_at_least_so_hot_becomes_the_mean_pixel_and_nothing_else_changes(threshold: float) -> None:
    """Where the one map is the image and its slope is the same everywhere, heat is light."""
    view, images = bright_world()
    defended = Februus(inpainting=False, threshold=threshold).defend(view, 0)
    assert defended.reform is not None
    pixels = images.floats()
    light = pixels - pixels.amin((2, 3), keepdim=True)
    hot = light / light.amax((2, 3), keepdim=True) >= threshold
    assert 0 < int(hot.sum()) < hot.numel()
    if threshold == 1:
        assert (hot.sum((1, 2, 3)) == 1).all()
    expected = torch.where(hot, view.clean.floats().mean(), pixels)
    with torch.inference_mode():
        torch.testing.assert_close(defended.reform(pixels), expected)
        torch.testing.assert_close(defended.model(pixels), view.model(expected))


def test_a_flat_map_masks_nothing() -> None:
    view, _ = bright_world()
    reform = Februus(inpainting=False).defend(view, 0).reform
    assert reform is not None
    dark = torch.full((2, 1, 6, 6), 0.25)
    assert torch.equal(reform(dark), dark)


@pytest.mark.parametrize("allowed", [0.0, 0.1, 0.4, 1.0])
def test_a_fitted_threshold_is_the_lowest_that_clean_images_allow(allowed: float) -> None:
    view, _ = bright_world()

    def accuracy(model: nn.Module) -> float:
        return float((model(view.clean.floats()).argmax(1) == view.clean.labels).float().mean())

    settings = Februus(inpainting=False)
    after = {each: accuracy(settings.changed(threshold=each).defend(view, 0).model) for each in THRESHOLDS}
    assert len(set(after.values())) > 5
    kept = [each for each, found in after.items() if found >= accuracy(view.model) - allowed]
    reform = settings.changed(threshold="fitted", max_accuracy_drop=allowed).defend(view, 0).reform
    assert isinstance(reform, Purification)
    assert reform.threshold == min(kept, default=0.95)
    assert allowed < 1 or reform.threshold == 0.05


def test_the_network_that_was_prepared_paints_what_is_masked() -> None:
    clean = digits_world().task.holdout
    settings = Februus(width=4, steps=3, adversarial_weight=0.0, threshold=0.5, batch_size=16)
    model = SmallCnn(width=2, embedding=4).build(clean.shape, 10, 0).eval()
    prepared = settings.prepare(materials(clean), 0)
    defended = settings.defend(ModelView(model, clean, prepared=prepared), 5)
    network, pixels = settings.inpainting_network(prepared, 1, CPU), clean.floats()[:30]
    assert isinstance(defended.reform, Purification)
    heat = as_heat(grad_cam(freeze(model), pixels, "stage3")[0], (16, 16)).unsqueeze(1)
    mask = (heat >= 0.5).float()
    assert 0 < float(mask.mean()) < 1
    torch.testing.assert_close(defended.reform(pixels), mask * network.paint(pixels, mask) + (1 - mask) * pixels)
    torch.testing.assert_close(network.fill.view(-1), clean.floats().mean().view(1))


def test_thresholds_share_one_network_and_other_images_or_layers_do_not() -> None:
    base = Februus()
    for same in ({"threshold": 0.5}, {"threshold": "fitted"}, {"stage": 2}, {"max_accuracy_drop": 0.1}):
        assert base.changed(**same).preparation() == base.preparation()
    for other in ({"width": 8}, {"clean_share": 10}, {"steps": 3}, {"adversarial_weight": 0.0}):
        assert base.changed(**other).preparation() != base.preparation()
    assert base.changed(inpainting=False).preparation() is None


def test_the_purification_stays_as_it_is_while_what_is_behind_it_is_trained() -> None:
    view, images = bright_world()
    model = Februus(inpainting=False, threshold=0.5).defend(view, 0).model
    model.train()
    purification = model.reform
    assert isinstance(purification, Purification)
    assert not any(module.training for module in purification.modules())
    pixels = images.floats().requires_grad_()
    left = purification(pixels.detach()) == pixels
    (slope,) = torch.autograd.grad(model(pixels).sum(), pixels)
    assert torch.equal(slope != 0, left)


def test_februus_and_the_detector_say_what_they_need() -> None:
    view, _ = bright_world()
    empty = ModelView(view.model, view.clean.take(slice(0)))
    for method in (Februus(), AttributionDetector()):
        assert method.skip(view) is None
        unknown = ModelView(linear_classifier(torch.zeros(3, 1, 6, 6), torch.zeros(3)), view.clean)
        sentence = "needs the stages of the network, to explain answers by their maps; none are known"
        assert method.skip(unknown) == sentence
        assert method.changed(stage=2).skip(view) == "stage=2 is before the first of 1 stages"
    assert Februus().skip(empty) == "needs clean images to learn what to fill holes with; there are none"
    assert AttributionDetector().skip(empty) == "needs 20 clean images at fpr=0.05; there are 0"
    small = ModelView(SmallCnn(width=2, embedding=4).build((1, 4, 4), 3, 0), noise_images(40, (1, 4, 4), 3))
    assert "stage stage3 have one place alone" in str(Februus().skip(small))
    assert Februus(stage=2).skip(small) is None


# The completion network.


def test_the_completion_network_has_the_published_layers() -> None:
    found = [
        (each.in_channels, each.out_channels, each.kernel_size[0], each.stride[0], each.dilation[0])
        for each in Completion(Februus(), 3).modules()
        if isinstance(each, nn.Conv2d | nn.ConvTranspose2d)
    ]
    dilated = [(256, 256, 3, 1, dilation) for dilation in (2, 4, 8, 16)]
    kept = [(256, 256, 3, 1, 1)] * 2
    first = [(4, 64, 5, 1, 1), (64, 128, 3, 2, 1), (128, 128, 3, 1, 1), (128, 256, 3, 2, 1)]
    last = [(256, 128, 4, 2, 1), (128, 128, 3, 1, 1), (128, 64, 4, 2, 1), (64, 32, 3, 1, 1), (32, 3, 3, 1, 1)]
    assert found == [*first, *kept, *dilated, *kept, *last]


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 3, 9, 14), (1, 1, 1, 3)])
def test_nothing_outside_of_a_hole_changes_and_the_network_does_not_see_what_was_inside(
    shape: tuple[int, int, int, int],
) -> None:
    network = Completion(Februus(width=4), shape[1]).eval()
    network.fill.fill_(0.4)
    pixels, holes = torch.rand(shape), torch.zeros(shape[0], 1, *shape[2:])
    holes[:, :, : shape[2] // 2 + 1, 1:] = 1
    seen: list[Tensor] = []
    network.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        painted = network(pixels, holes)
    assert painted.shape == shape
    assert torch.equal(painted * (1 - holes), pixels * (1 - holes))
    shown = torch.cat([torch.where(holes.bool(), 0.4, pixels), holes], 1)
    torch.testing.assert_close(seen[0][:, :, : shape[2], : shape[3]], shown)
    assert seen[0].shape[2] % 4 == seen[0].shape[3] % 4 == 0
    assert 0 <= float(painted.min()) <= float(painted.max()) <= 1


def test_holes_are_rectangles_of_the_stated_sides_anywhere() -> None:
    random = torch.Generator().manual_seed(0)
    holes = Februus(smallest_hole=0.25, largest_hole=0.5).holes(4000, (16, 12), random, CPU).squeeze(1)
    assert set(holes.unique().tolist()) == {0.0, 1.0}
    rows, columns = holes.amax(2), holes.amax(1)
    torch.testing.assert_close(rows.unsqueeze(2) * columns.unsqueeze(1), holes)
    for along, sides in ((rows, range(4, 9)), (columns, range(3, 7))):
        assert set(along.sum(1).int().tolist()) == set(sides)
        assert ((along[:, 1:] != along[:, :-1]).sum(1) <= 2).all()
        assert {0, along.shape[1] - along.sum(1).int().min().item()} <= set(along.argmax(1).tolist())


@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_what_is_painted_into_a_hole_is_nearer_to_what_was_there_than_the_mean_pixel(weight: float) -> None:
    """On digits that the network has not seen, with and without a critic. Measured: 0.46, 0.53 of the mean's error."""
    clean, fresh = digits_world().task.holdout, digits_world().task.test.floats()[:200]
    settings = Februus(
        width=8, steps=100, batch_size=16, lr=0.003, adversarial_weight=weight, adversarial_steps=20, critic_steps=2
    )
    network = settings.inpainting_network(settings.prepare(materials(clean), 0), 1, CPU)
    holes = settings.holes(len(fresh), (16, 16), torch.Generator().manual_seed(1), CPU)
    filled = torch.where(holes.bool(), network.fill, fresh)
    assert mse_loss(network(fresh, holes), fresh) < 0.75 * mse_loss(filled, fresh)


def test_only_what_is_in_the_holes_counts() -> None:
    pixels, painted = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    holes = torch.zeros(2, 1, 4, 4)
    holes[0, 0, :2, :2] = 1
    painted[0, :, 0, 0] = 3
    assert float(inpainting._error(painted, pixels, holes)) == pytest.approx((9 + 3) / 4)


def test_the_penalty_is_on_the_length_of_the_critics_slope_between_real_and_made() -> None:
    """Of a linear critic that is the length of its weights; of a sum of squares twice that of an image in between."""
    settings, random = Inpainting(gradient_penalty=10.0), torch.Generator().manual_seed(0)
    last = nn.Linear(4, 1)
    linear = nn.Sequential(nn.Flatten(), last)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[3.0, 0, 4, 0]]))
    pixels, made = torch.zeros(500, 1, 2, 2), torch.ones(500, 1, 2, 2)
    assert settings._penalty(linear, pixels, made, random).item() == pytest.approx(10 * (5 - 1) ** 2, rel=1e-5)
    found = settings._penalty(Squared(), pixels, made, random).item()
    # The slope's length is 4·share, the share uniform: the mean of (4·share - 1)² is 16/3 - 4 + 1.
    assert found == pytest.approx(10 * (16 / 3 - 3), rel=0.1)


class Squared(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.square().sum((1, 2, 3))


def test_critic_and_network_pull_in_opposite_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic rates real images higher and made ones lower; the network has made ones rated higher."""
    losses: list[float] = []
    step = inpainting._step

    def watched(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        losses.append(loss.item())
        step(optimizer, loss)

    monkeypatch.setattr(inpainting, "_step", watched)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, pixels: Tensor) -> Tensor:
            return self.weight * pixels.sum((1, 2, 3))

    monkeypatch.setattr(inpainting, "_critic", lambda *_: Sum())
    grey = Images(torch.full((8, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(8, dtype=torch.long), 2)
    settings = Inpainting(
        width=2,
        steps=1,
        adversarial_steps=1,
        critic_steps=1,
        adversarial_weight=2.0,
        batch_size=8,
        gradient_penalty=0.0,
        smallest_hole=1.0,
        largest_hole=1.0,
        lr=1e-9,
    )
    settings.train_inpainting(grey, 0)
    first, critics, both = losses
    mean = 1 - first**0.5
    # White images, holes as large as they are: what is made sums up to 64 times its mean, what is real to 64.
    assert critics == pytest.approx(64 * (mean - 1), rel=0.05)
    assert both == pytest.approx(first - 2 * 64 * mean, rel=0.05)


def test_every_image_is_shown_before_one_is_shown_again() -> None:
    levels = torch.arange(12, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    batches = Inpainting(batch_size=4)._batches(
        Images(levels, torch.zeros(12, dtype=torch.long), 2), torch.Generator().manual_seed(0)
    )
    shown = [set(to_levels(next(batches)[0])[:, 0, 0, 0].tolist()) for _ in range(6)]
    assert set.union(*shown[:3]) == set.union(*shown[3:]) == set(range(12))
    assert shown[:3] != shown[3:]


# The detector.


def test_means_are_of_a_class_of_all_where_it_has_none_and_of_the_others_where_one_is_left_out() -> None:
    heat = torch.tensor([0.0, 0.2, 0.7, 1.0]).view(4, 1, 1)
    label = torch.tensor([0, 0, 0, 2])
    means = Means(heat, label, 3)
    torch.testing.assert_close(means.of(torch.tensor([0, 1, 2])).view(-1), torch.tensor([0.3, 1.9 / 4, 1.0]))
    left = means.of(label, without=heat).view(-1)
    torch.testing.assert_close(left, torch.tensor([0.45, 0.35, 0.1, 0.9 / 3]))


def test_a_score_is_the_mean_distance_to_the_mean_map_of_the_class_that_the_model_gives() -> None:
    view, images = bright_world()
    screen = AttributionDetector(fpr=0.1).defend(view, 0)

    def light(pixels: Tensor) -> Tensor:
        above = pixels.squeeze(1) - pixels.amin((2, 3))[..., None]
        return above / above.amax((1, 2), keepdim=True)

    clean, answers = light(view.clean.floats()), view.model(view.clean.floats()).argmax(1)
    means = torch.stack([clean[answers == label].mean(0) for label in range(3)])
    given = view.model(images.floats()).argmax(1)
    expected = (light(images.floats()) - means[given]).abs().mean((1, 2))
    torch.testing.assert_close(screen.score(images.floats()), expected)
    others = torch.stack(
        [(clean[i] - clean[(answers == answers[i]) & (torch.arange(80) != i)].mean(0)).abs().mean() for i in range(80)]
    )
    assert screen.threshold == pytest.approx(float(others.quantile(0.9, interpolation="higher")), abs=1e-6)


def test_an_image_whose_answer_comes_from_elsewhere_is_flagged() -> None:
    view, images = bright_world()
    screen = AttributionDetector().defend(view, 0)
    stamped = images.floats()
    stamped[:, :, :2, 4:] = 1  # so bright that all else is cold
    stamped[:, :, 2:] *= 0.5
    assert float((screen.score(stamped) > screen.threshold).float().mean()) > 0.9
    assert float((screen.score(images.floats()) > screen.threshold).float().mean()) < 0.2
