"""Fused steps where there is a GPU; a pretended one is enough to see who asks for them."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

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
