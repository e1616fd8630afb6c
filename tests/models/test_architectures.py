"""Promises of every listed architecture, each on a narrow copy, over grey, colour and non-square images."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.defenses.sanitization.fine_pruning import mask_channels, pruned_accuracies
from gifthorse.inversion.frozen import freeze
from gifthorse.models import ARCHITECTURES
from worlds import noise_images, requests

# Residual blocks of fewer than eight channels write past their memory in torch 2.14 (oneDNN, AVX2 without AVX-512).
NARROW: dict[str, dict[str, object]] = {
    "small_cnn": {"width": 4},
    "resnet18": {"width": 8},
    "resnet34": {"width": 8, "blocks": [1, 2, 1, 1]},
    "resnet50": {"width": 2, "blocks": [1, 2, 1, 1]},
    "vgg13": {"width": 4},
    "vgg16": {"width": 2},
    "vgg19": {"width": 4},
    "densenet121": {"width": 8, "growth_rate": 4, "blocks": [1, 2, 2, 1]},
    "wrn_16_1": {"width": 8},
    "wrn_40_1": {"width": 8},
    "wrn_40_2": {"width": 8},
    "cnn_mnist": {"width": 4},
    "cnn_celeba": {"width": 4},
    "torchvision": {"arch": "mobilenet_v3_small"},
    "timm": {"arch": "resnet10t"},
}
LISTED = requests(ARCHITECTURES)
LARGE_ONLY = {request for request in LISTED if "stem=large" in request or "head=torchvision" in request}
"""Variants for large images; 16×16 is too small for those."""
CASES = [
    pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}")
    for name in LISTED
    for shape in ((1, 16, 16), (3, 32, 32), (3, 36, 52))
    if not (name in LARGE_ONLY and shape[1] == 16)
]

every_architecture = pytest.mark.parametrize("name", LISTED)
every_case = pytest.mark.parametrize(("name", "shape"), CASES)


def narrow(name: str) -> Architecture:
    if name == "timm":
        pytest.importorskip("timm")
    architecture = ARCHITECTURES.build(name)
    return architecture.changed(**NARROW[architecture.name])


def trained_a_little(name: str, shape: tuple[int, int, int] = (3, 32, 32)) -> tuple[Classifier, Tensor]:
    """A classifier whose batch normalisation has seen something, and images for it."""
    model = narrow(name).build(shape, 7, 0)
    pixels = noise_images(8, shape, 7).floats()
    model.train()
    with torch.no_grad():
        model(pixels)
    return model.eval(), pixels


@every_case
def test_features_are_what_the_head_receives(name: str, shape: tuple[int, int, int]) -> None:
    model = narrow(name).build(shape, 7, 0).eval()
    pixels = noise_images(5, shape, 7).floats()
    seen: list[Tensor] = []

    def watch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            seen[:] = [inputs[0], output]

    hooks = [module.register_forward_hook(watch) for module in model.modules()]
    logits = model(pixels)
    for hook in hooks:
        hook.remove()
    received, given = seen
    features = model.features(pixels)
    assert torch.equal(features, received)
    assert torch.equal(logits, given)
    assert torch.equal(model.head(features), logits)
    assert features.shape == (5, model.head.in_features)
    assert model.classes == 7


@every_case
def test_stages_are_maps_in_the_order_in_which_they_run(name: str, shape: tuple[int, int, int]) -> None:
    model = narrow(name).build(shape, 7, 0).eval()
    pixels = noise_images(2, shape, 7).floats()
    ran: list[str] = []
    for stage in model.stage_names:
        model.network.get_submodule(stage).register_forward_hook(lambda *_, stage=stage: ran.append(stage))
    model(pixels)
    assert tuple(ran) == model.stage_names
    assert len(ran) >= 2
    sizes = [model.stage(stage, pixels).shape for stage in model.stage_names]
    assert all(len(size) == 4 and size[0] == 2 for size in sizes)
    assert all(before[2] >= after[2] and before[3] >= after[3] for before, after in pairwise(sizes))


@every_architecture
def test_looking_inside_leaves_no_hooks(name: str) -> None:
    model = narrow(name).build((3, 32, 32), 7, 0).eval()
    pixels = noise_images(2, (3, 32, 32), 7).floats()
    model.features(pixels)
    model.stage(model.stage_names[-1], pixels)
    assert not [module for module in model.modules() if module._forward_hooks]


@every_architecture
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed + 100)
        before = torch.get_rng_state()
        model = narrow(name).build((3, 32, 32), 4, seed)
        assert torch.equal(torch.get_rng_state(), before)
        return torch.cat([part.flatten().float() for part in model.state_dict().values()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@every_architecture
def test_a_frozen_copy_gives_the_same_logits(name: str) -> None:
    model, pixels = trained_a_little(name)
    with torch.no_grad():
        torch.testing.assert_close(freeze(model)(pixels), model(pixels), atol=1e-4, rtol=1e-4)


@every_architecture
def test_masking_a_channel_of_the_last_stage_takes_it_out_and_changes_the_logits(name: str) -> None:
    model, pixels = trained_a_little(name)
    last = model.stage_names[-1]
    maps, logits = model.stage(last, pixels), model(pixels)
    keep = mask_channels(model, last, maps.shape[1])
    torch.testing.assert_close(model(pixels), logits)
    busiest = int(maps.abs().sum((0, 2, 3)).argmax())
    keep[busiest] = 0
    assert model.stage(last, pixels)[:, busiest].abs().max() == 0
    assert not torch.allclose(model(pixels), logits)


@every_architecture
def test_pruning_steps_tried_in_one_pass_are_as_accurate_as_one_at_a_time(name: str) -> None:
    model, pixels = trained_a_little(name)
    last, answers = model.stage_names[-1], predict(model, pixels).argmax(1)
    images = Images((pixels * 255).round().to(torch.uint8), answers, 7)
    ranking = model.stage(last, pixels).mean((0, 2, 3)).argsort()
    keep, accuracies, counts = mask_channels(model, last, len(ranking)), [], range(len(ranking) + 1)
    for count in counts:
        keep[ranking[:count]] = 0
        accuracies.append(float((predict(model, images).argmax(1) == answers).float().mean()))
    keep.fill_(1)
    assert pruned_accuracies(model, last, ranking, counts, images) == accuracies
    assert accuracies[0] == 1


@every_architecture
def test_a_clone_and_a_reloaded_copy_compute_the_same(name: str) -> None:
    model, pixels = trained_a_little(name)
    logits = model(pixels)
    copies = [model.clone(), copy.deepcopy(model), narrow(name).build((3, 32, 32), 7, 1).eval()]
    copies[2].load_state_dict(model.state_dict())
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    for other in copies:
        assert torch.equal(other(pixels), logits)
        assert (other.head_name, other.stage_names) == (model.head_name, model.stage_names)


@every_architecture
def test_gradients_reach_every_parameter(name: str) -> None:
    model = narrow(name).build((3, 32, 32), 7, 0).train()
    pixels = noise_images(8, (3, 32, 32), 7).floats()
    nn.functional.cross_entropy(model(pixels), torch.arange(8) % 7).backward()
    assert [key for key, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_listing_tells_the_number_of_parameters(name: str) -> None:
    cls = ARCHITECTURES[name]
    if name == "timm":
        pytest.importorskip("timm")
    assert cls.describe()["parameters"] == cls().count_parameters((3, 32, 32), 10)


def test_counting_parameters_builds_nothing_and_counts_what_is_built() -> None:
    for name in ("resnet18", "densenet121", "torchvision"):
        built = narrow(name).build((1, 32, 32), 7, 0)
        assert narrow(name).count_parameters((1, 32, 32), 7) == sum(weight.numel() for weight in built.parameters())


@pytest.mark.parametrize(
    ("written", "name"),
    [("wrn-40-1", "wrn_40_1"), ("WRN40-2", "wrn_40_2"), ("wrn16_1", "wrn_16_1"), ("DenseNet", "densenet121")],
)
def test_the_papers_spellings_are_understood(written: str, name: str) -> None:
    assert ARCHITECTURES.find(written).name == name


def test_the_last_stage_of_a_pre_activation_network_is_what_the_head_averages() -> None:
    for name in ("wrn_16_1", "densenet121", "resnet18", "vgg13"):
        model, pixels = trained_a_little(name)
        last = model.stage(model.stage_names[-1], pixels)
        assert last.min() >= 0
        if name != "vgg13":  # there a pooling is between
            torch.testing.assert_close(last.mean((2, 3)), model.features(pixels))
