"""What was computed elsewhere is told, and what was computed here is not."""

from importlib import metadata
from typing import Any

import pytest
import torch

from gifthorse.bench.elsewhere import differences, processor
from gifthorse.bench.machine import environment
from gifthorse.core.record import Environment

HERE = environment(torch.device("cpu"))


def there(**fields: Any) -> Environment:
    return HERE.model_copy(update=fields)


def test_what_was_computed_here_is_of_here() -> None:
    assert HERE.cpu == processor()
    assert HERE.cpu is not None
    assert differences(HERE, "cpu", {torch.get_num_threads()}) == []
    assert differences(HERE, None, ()) == []


@pytest.mark.parametrize(
    ("fields", "device", "threads", "said"),
    [
        ({"cpu": "Another"}, None, (), [f"on Another, here {processor()}"]),
        ({"cpu": None}, None, (), []),
        ({"threads": 2}, "cpu", {1}, ["with 2 threads, here 1 thread"]),
        ({"threads": 2}, "cpu", {4, 2}, []),
        ({"threads": 1}, "cpu", {4, 2}, ["with 1 thread, here 2 threads or 4 threads"]),
        ({"threads": 2}, "cpu", (), []),
        ({"torch": "1.0.0"}, None, (), [f"with torch 1.0.0, here {metadata.version('torch')}"]),
        ({"torch": metadata.version("torch").partition("+")[0] + "+other"}, None, (), []),
        ({"device": "NVIDIA H200"}, "cpu", (), ["on NVIDIA H200, here cpu"]),
        ({"device": "NVIDIA H200", "cpu": "Another", "threads": 9}, "cuda:1", {1}, []),
        ({"device": "NVIDIA H200", "cpu": "Another"}, None, (), []),
        ({}, "cuda", (), [f"on {HERE.device}, here cuda"]),
    ],
)
def test_whatever_differs_is_told(fields: dict[str, Any], device: str | None, threads: Any, said: list[str]) -> None:
    assert differences(there(**fields), device, threads) == said
