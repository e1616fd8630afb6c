"""Fused steps where there is a GPU; a pretended one is enough to see who asks for them."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gifthorse.bench.cell import RECIPES
from gifthorse.core.errors import RequestError
from gifthorse.core.recipe import StandardRecipe
from gifthorse.training.optimisers import adam, optimise


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_steps_are_fused_on_a_gpu_alone(device: str) -> None:
    with FakeTensorMode():
        layer = nn.Linear(3, 2, device=device)
        sgd, _ = optimise(layer, StandardRecipe(), 10)
        assert bool(sgd.defaults["fused"]) == (device == "cuda") != bool(sgd.defaults["foreach"])
        assert bool(adam(layer.parameters(), 0.1).defaults["fused"]) == (device == "cuda")


def test_adam_is_torchs() -> None:
    ours, theirs = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    for parameter, optimizer in (
        (ours, adam([ours], 0.1, (0.5, 0.9))),
        (theirs, torch.optim.Adam([theirs], 0.1, (0.5, 0.9))),
    ):
        for _ in range(3):
            optimizer.zero_grad()
            (parameter**2 * torch.tensor([1.0, 5.0])).sum().backward()
            optimizer.step()
    assert torch.equal(ours, theirs)


def test_a_tenth_of_the_learning_rate_is_left_after_each_milestone() -> None:
    """DHBE, appendix A: 0.1, a tenth of it from epoch 100 and again from 150."""
    recipe = RECIPES.build("dhbe")
    optimizer, scheduler = optimise(nn.Linear(2, 2), recipe, 200 * 3)
    rates = []
    for _ in range(200 * 3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [0.1] * 300 + [0.01] * 150 + [0.001] * 150
    assert rates == pytest.approx(expected)
    assert optimizer.defaults["weight_decay"] == 5e-4


@pytest.mark.parametrize(
    "text",
    [
        "standard[schedule=[0]]",
        "standard[schedule=linear]",
        "standard[schedule=[1.5]]",
        "standard[epochs=20,schedule=[10,20]]",
        "standard[epochs=20,schedule=[100,150]]",
    ],
)
def test_a_schedule_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="schedule"):
        RECIPES.build(text)
