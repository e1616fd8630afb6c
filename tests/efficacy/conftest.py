"""Digits as the laptop profile has them, and a benign model of them: made once, for all files."""

import pytest

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.training.scratch import train
from worlds import digits_task


@pytest.fixture(scope="session")
def task() -> Task:
    return digits_task("laptop")


@pytest.fixture(scope="session")
def benign(task: Task) -> Classifier:
    return train(task, 0)


@pytest.fixture(scope="session")
def trojan(task: Task, benign: Classifier) -> Trojan:
    """BadNets as the laptop profile has it."""
    return resolve(dataset="digits", attack="badnets", profile="laptop").attack.run(task, benign, 0)
