"""Decayed gradients through skips and residual branches: against arithmetic by hand, and that nothing stays behind."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.models.resnet import BasicBlock

from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.models import ARCHITECTURES
from gifthorse.models.wide_resnet import PreActivationBlock
from gifthorse.planting.skip_gradient import residual_branches, skip_gradient_decay
from worlds import noise_images

RESIDUAL = [
    "resnet18[width=8,blocks=[1,1,1,1]]",
    "resnet34[width=4,blocks=[1,2,1,1]]",
    "resnet50[width=2,blocks=[1,1,1,1]]",
    "wrn_16_1[width=4]",
    "wrn_40_2[width=2,blocks=1]",
    "torchvision/resnet18",
]
PLAIN = [
    "small_cnn[width=4]",
    "vgg13[width=4]",
    "densenet121[width=8,growth_rate=4,blocks=[1,1,1,1]]",
    "torchvision/mobilenet_v2",
]
every_residual = pytest.mark.parametrize("name", RESIDUAL)


def doubling_then_tripling() -> PreActivationBlock:
    """A block that maps a positive pixel x to x + 3 · relu(2 · relu(x)) = 7x."""
    block = PreActivationBlock(1, 1, 1).eval()
    for norm in (block.bn1, block.bn2):
        norm.eps = 0.0
    with torch.no_grad():
        for convolution, weight in ((block.conv1, 2.0), (block.conv2, 3.0)):
            convolution.weight.zero_()[0, 0, 1, 1] = weight
    return block


@pytest.mark.parametrize(
    ("through", "gamma", "of_input", "of_branch"),
    [
        ("residual", 0.5, (1 + 0.5 * 6) ** 2, 0.5),
        ("residual", 0.25, (1 + 0.25 * 6) ** 2, 0.25),
        ("skip", 0.5, (0.5 + 6) ** 2, 1.0),
        ("residual", 1.0, 49.0, 1.0),
    ],
)
def test_two_blocks_by_hand(
    through: Literal["residual", "skip"], gamma: float, of_input: float, of_branch: float
) -> None:
    blocks = nn.Sequential(doubling_then_tripling(), doubling_then_tripling())
    pixel = torch.ones(1, 1, 1, 1, requires_grad=True)
    with skip_gradient_decay(blocks, gamma, through=through):
        output = blocks(pixel)
    assert output.item() == 49
    output.backward()
    assert pixel.grad is not None
    assert pixel.grad.item() == pytest.approx(of_input)
    weight = blocks.get_submodule("1.conv2").weight
    assert isinstance(weight, Tensor)
    assert weight.grad is not None
    # The last block receives 7 and doubles it: 14 arrives at its second convolution.
    assert weight.grad[0, 0, 1, 1].item() == pytest.approx(of_branch * 14)


@pytest.mark.parametrize("through", ["residual", "skip"])
def test_a_post_activation_block_with_a_shortcut_against_its_own_formula(through: Literal["residual", "skip"]) -> None:
    """The other way is written out: a value whose gradient counts γ is γ · v + (1 − γ) · v held constant."""

    def decayed(value: Tensor) -> Tensor:
        return 0.3 * value + 0.7 * value.detach()

    torch.manual_seed(0)
    shortcut = nn.Sequential(nn.Conv2d(3, 4, 1, 2, bias=False), nn.BatchNorm2d(4))
    block = BasicBlock(3, 4, 2, shortcut).double()
    pixels = torch.rand(5, 3, 8, 8, dtype=torch.double, requires_grad=True)
    change, skip = block.bn2(block.conv2(relu(block.bn1(block.conv1(pixels))))), shortcut(pixels)
    expected = relu(decayed(change) + skip if through == "residual" else change + decayed(skip))
    direction = torch.rand_like(expected)
    wanted = torch.autograd.grad((expected * direction).sum(), [pixels, *block.parameters()])
    with skip_gradient_decay(block, 0.3, through=through):
        output = block(pixels)
        found = torch.autograd.grad((output * direction).sum(), [pixels, *block.parameters()])
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(found, wanted)


def gradient(model: Classifier, pixels: Tensor) -> tuple[Tensor, Tensor]:
    pixels = pixels.clone().requires_grad_()
    logits = model(pixels)
    return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), [pixels])[0]


@every_residual
def test_logits_stay_gradients_change_and_nothing_stays_behind(name: str) -> None:
    model = ARCHITECTURES.build(name).build((3, 32, 32), 5, 0).eval()
    pixels = noise_images(3, (3, 32, 32), 5).floats()
    logits, plain = gradient(model, pixels)
    with skip_gradient_decay(model, 0.5):
        decayed_logits, decayed = gradient(model, pixels)
        with torch.no_grad():
            assert torch.equal(model(pixels), logits)
    with skip_gradient_decay(model, 1.0):
        _, same = gradient(model, pixels)
    assert torch.equal(decayed_logits, logits)
    assert not torch.allclose(decayed, plain, rtol=0.05)
    torch.testing.assert_close(same, plain, rtol=0, atol=0)
    torch.testing.assert_close(gradient(model, pixels)[1], plain, rtol=0, atol=0)
    assert not [module for module in model.modules() if module._forward_hooks]


@every_residual
def test_every_block_is_found(name: str) -> None:
    model = ARCHITECTURES.build(name).build((3, 32, 32), 5, 0)
    blocks = [module for module in model.modules() if "Block" in type(module).__name__ or "Bottle" in str(type(module))]
    assert [block for block, _ in residual_branches(model)] == blocks


def test_the_hooks_go_when_the_block_ends_in_an_error() -> None:
    model = ARCHITECTURES.build(RESIDUAL[0]).build((3, 32, 32), 5, 0)
    with pytest.raises(ZeroDivisionError), skip_gradient_decay(model, 0.5):
        raise ZeroDivisionError
    assert not [module for module in model.modules() if module._forward_hooks]


@pytest.mark.parametrize("name", PLAIN)
def test_a_network_without_residual_blocks_is_refused(name: str) -> None:
    model = ARCHITECTURES.build(name).build((3, 32, 32), 5, 0)
    with pytest.raises(RequestError, match="no residual blocks"), skip_gradient_decay(model, 0.5):
        pass


@pytest.mark.parametrize("gamma", [0.0, -1.0, 1.5, float("nan")])
def test_gamma_must_be_a_share(gamma: float) -> None:
    model = ARCHITECTURES.build(RESIDUAL[0]).build((3, 32, 32), 5, 0)
    with pytest.raises(RequestError, match="gamma"), skip_gradient_decay(model, gamma):
        pass
