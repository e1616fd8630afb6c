"""The machine: repeatable unless asked otherwise."""

import platform

import numpy
import pytest
import sklearn
import torch
import torchvision

from gifthorse.bench.machine import environment, pick_device


@pytest.mark.parametrize("deterministic", [False, True])
def test_arithmetic_is_repeatable_or_fast_as_asked(deterministic: bool) -> None:
    device = pick_device("cpu", deterministic=deterministic)
    assert torch.backends.cudnn.deterministic == deterministic
    assert torch.backends.cudnn.benchmark != deterministic
    assert environment(device).deterministic is None
    pick_device("cpu")
    assert torch.backends.cudnn.deterministic


def test_the_environment_names_what_computed() -> None:
    found = environment(torch.device("cpu"))
    assert found.numpy == numpy.__version__
    assert found.torchvision == torchvision.__version__.partition("+")[0]
    assert found.scikit_learn == sklearn.__version__
    assert found.system == f"{platform.system()} {platform.release()}"
    assert found.cpu
