"""The machine: repeatable unless asked otherwise."""

import pytest
import torch

from gifthorse.bench.machine import environment, pick_device


@pytest.mark.parametrize("deterministic", [False, True])
def test_arithmetic_is_repeatable_or_fast_as_asked(deterministic: bool) -> None:
    device = pick_device("cpu", deterministic=deterministic)
    assert torch.backends.cudnn.deterministic == deterministic
    assert torch.backends.cudnn.benchmark != deterministic
    assert environment(device).deterministic is None
    pick_device("cpu")
    assert torch.backends.cudnn.deterministic
