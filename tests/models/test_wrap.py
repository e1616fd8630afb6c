"""Wrapping a user's network: what is found, what is refused, and that nothing in it changes."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.inversion.frozen import freeze


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout2d(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


class Backwards(nn.Module):
    """Registers everything in the order opposite to that in which it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(6, 5)
        self.embed = nn.Linear(8, 6)
        self.late = block(4, 8, 2)
        self.early = block(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.embed(self.late(self.early(images)).mean((2, 3))).relu())
        return logits


class Bottleneck(nn.Module):
    """A residual block with the stride in the middle, so that two resolutions are inside."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.reduce = nn.Conv2d(before, 2, 1)
        self.stride = nn.Conv2d(2, 2, 3, 2, 1)
        self.expand = nn.Conv2d(2, after, 1)
        self.shortcut = nn.Conv2d(before, after, 1, 2)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.expand(self.stride(self.reduce(maps))) + self.shortcut(maps)
        return out


class Nested(nn.Module):
    """A backbone of blocks inside a wrapper, a list that itself never runs, and one ReLU used everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(block(3, 4), Bottleneck(4, 8), Bottleneck(8, 16))
        self.more = nn.ModuleList([block(16, 20), block(20, 24)])
        self.relu = nn.ReLU()
        self.head = nn.ModuleDict({"hidden": nn.Linear(24, 9), "out": nn.Linear(9, 5)})

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.backbone(images))
        for part in self.more:
            maps = self.relu(part(maps))
        hidden, out = self.head.values()
        logits: Tensor = out(hidden(maps.mean((2, 3))).relu())
        return logits


def pooled() -> nn.Sequential:
    return nn.Sequential(block(3, 4, 4), block(4, 8, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def normalised_after_pooling() -> nn.Sequential:
    return nn.Sequential(block(3, 4), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("make", "head", "stages"),
    [
        (plain, "9", ("1", "5")),
        (Backwards, "classify", ("early", "late")),
        (Nested, "head.out", ("backbone.0", "backbone.1", "backbone.2", "more.0", "more.1")),
        (pooled, "4", ("0", "1")),
        (normalised_after_pooling, "4", ("0",)),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 12, 5)), "1", ()),
    ],
    ids=["chain", "registered backwards", "nested", "pooled at 1×1", "normalised after pooling", "linear"],
)
def test_head_and_stages_are_found(make: Callable[[], nn.Module], head: str, stages: tuple[str, ...]) -> None:
    model = Classifier.wrap(make(), [0.5] * 3, [0.25] * 3, example_shape=(3, 16, 12)).eval()
    pixels = torch.rand(4, 3, 16, 12)
    assert (model.head_name, model.stage_names) == (head, stages)
    assert torch.equal(model.head(model.features(pixels)), model(pixels))
    assert all(model.stage(name, pixels).dim() == 4 for name in stages)


def test_images_are_32_by_32_unless_said_otherwise() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 5))
    assert Classifier.wrap(network, mean=[0.5], std=[0.5]).head_name == "1"
    with pytest.raises(RequestError, match="cannot take an image of 1×8×8"):
        Classifier.wrap(network, mean=[0.5], std=[0.5], example_shape=(1, 8, 8))


def test_the_normalisation_is_the_users() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    model = Classifier.wrap(network, mean, std, example_shape=(3, 4, 4))
    pixels = torch.rand(2, 3, 4, 4)
    by_hand = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(model(pixels), network(by_hand))


def test_the_user_may_name_head_and_stages() -> None:
    model = Classifier.wrap(plain(), [0.5] * 3, [0.5] * 3, head="9", stages=["4", "0"])
    assert (model.head_name, model.stage_names) == ("9", ("0", "4"))
    assert Classifier.wrap(plain(), [0.5] * 3, [0.5] * 3, stages=()).stage_names == ()


def test_nothing_in_the_network_changes() -> None:
    network = nn.Sequential(OrderedDict(body=block(3, 4), drop=nn.Dropout(), flat=nn.Flatten(), head=nn.LazyLinear(5)))
    network(torch.zeros(2, 3, 32, 32))
    network.train()
    network.get_submodule("drop").eval()
    network.get_submodule("head").requires_grad_(False)
    modes = [module.training for module in network.modules()]
    state = {name: part.clone() for name, part in network.state_dict().items()}
    random = torch.get_rng_state()
    Classifier.wrap(network, [0.5] * 3, [0.5] * 3)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(part, state[name]) for name, part in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not [module for module in network.modules() if module._forward_hooks]
    assert [weight.requires_grad for weight in network.parameters()] == [True] * 4 + [False] * 2


def test_a_network_that_fails_is_left_as_it_was() -> None:
    network = plain().train()
    with pytest.raises(RequestError, match="cannot take an image of 1×32×32"):
        Classifier.wrap(network, [0.5], [0.5])
    assert network.training
    assert not [module for module in network.modules() if module._forward_hooks]


def test_half_precision_and_double_precision_networks_are_wrapped() -> None:
    assert Classifier.wrap(plain().double(), [0.5] * 3, [0.5] * 3).head_name == "9"
    assert Classifier.wrap(plain().bfloat16(), [0.5] * 3, [0.5] * 3).head_name == "9"


class Shared(nn.Module):
    """One convolution, run twice, with a batch normalisation of its own after each run."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.second(self.convolution(self.first(self.convolution(images)).relu()))
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


@pytest.mark.parametrize("make", [plain, Backwards, Nested, Shared])
def test_a_frozen_copy_of_a_wrapped_network_gives_the_same_logits(make: Callable[[], nn.Module]) -> None:
    model = Classifier.wrap(make(), [0.5] * 3, [0.25] * 3).train()
    pixels = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        model(pixels)
        model.eval()
        torch.testing.assert_close(freeze(model)(pixels), model(pixels), atol=1e-4, rtol=1e-4)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(48, 48)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layer(self.layer(images.flatten(1)))
        return out


class Sum(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.sum(2)


def flat(*after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5), *after)


@pytest.mark.parametrize(
    ("network", "named", "complaint"),
    [
        (flat(nn.Softmax(1)), {}, "it ends in a softmax, and no logits"),
        (
            nn.Sequential(nn.Conv2d(3, 30, 4), nn.Unflatten(1, (5, 6)), nn.Flatten(2), Sum()),
            {},
            "the model has no head",
        ),
        (Twice(), {}, "it runs 2 times"),
        (nn.Conv2d(3, 5, 1), {}, "does not give logits"),
        (flat(), {"head": "0"}, "head '0' is no linear layer of the model that runs; these do: 1"),
        (flat(), {"head": "fc"}, "head 'fc' is no linear layer"),
        (flat(nn.ReLU(), nn.Linear(5, 5)), {"head": "1"}, "linear layer '1' cannot be the head"),
        (flat(), {"stages": ["0"]}, "stage '0' is no module of the model"),
        (flat(), {"stages": ["layer4"]}, "stage 'layer4' is no module of the model"),
    ],
)
def test_what_cannot_be_wrapped_is_refused_in_one_line(
    network: nn.Module, named: dict[str, object], complaint: str
) -> None:
    with pytest.raises(RequestError) as refused:
        Classifier.wrap(network, [0.5] * 3, [0.5] * 3, example_shape=(3, 4, 4), **named)  # type: ignore[arg-type]
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)
