"""A trigger that holds a network: it is stamped without gradients, kept whole and read back by its listed name."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gifthorse import TRIGGERS, AllToOne, Backdoor, Trigger, Trojan
from gifthorse.bench.packing import pack_trojan, unpack_trojan
from gifthorse.core.goal import OnePerCondition
from gifthorse.core.task import Task
from gifthorse.planting.poisoning import PoisoningAttack
from gifthorse.training.scratch import train
from worlds import noise_task


class Painter(Trigger):
    """Adds a network's answer to what is in a buffer."""

    name = "painter"
    mask = None
    ground: Tensor

    def __init__(self, ground: Tensor, channels: int):
        super().__init__()
        self.register_buffer("ground", ground)
        self.channels, self.network = channels, nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1))

    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        painted: Tensor = self.network(pixels)
        return (self.ground + painted).clamp(0, 1)

    def settings(self) -> dict[str, Any]:
        return {"channels": self.channels}


@pytest.fixture
def painted() -> tuple[Task, Trojan]:
    task = noise_task((1, 12, 12))
    model = train(task, 0)
    return task, Trojan(model, model, Backdoor(Painter(torch.full((1, 12, 12), 0.5), 1), AllToOne()))


def test_its_networks_are_read_back_beside_its_buffers(
    painted: tuple[Task, Trojan], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, trojan = painted
    monkeypatch.setitem(TRIGGERS, "painter", Painter)
    from gifthorse.attacks.data.badnets import BadNets

    restored = unpack_trojan(task, BadNets(), trojan.twin, *pack_trojan(trojan))
    assert restored.backdoor is not None
    assert trojan.backdoor is not None
    pixels = task.test.floats()
    assert torch.equal(restored.backdoor.trigger.stamp(pixels), trojan.backdoor.trigger.stamp(pixels))


def test_one_that_is_not_listed_is_refused_before_it_is_kept(painted: tuple[Task, Trojan]) -> None:
    with pytest.raises(TypeError, match=r"Painter cannot be read back: gifthorse.triggers.TRIGGERS\['painter'\]"):
        pack_trojan(painted[1])


def test_only_what_is_embedded_can_be_differentiated(painted: tuple[Task, Trojan]) -> None:
    task, trojan = painted
    assert trojan.backdoor is not None
    assert not trojan.backdoor.stamp(task.test.floats(), task.test.labels).pixels.requires_grad
    assert trojan.backdoor.embed(task.test.floats(), task.test.labels).pixels.requires_grad


class EveryClass(PoisoningAttack):
    """Has a goal, but no field that names a target."""

    name = "every_class"

    def goal(self, task: Task) -> OnePerCondition:
        return OnePerCondition(target=tuple(range(task.classes)))

    def make_trigger(self, *_: Any) -> Trigger:
        return Painter(torch.zeros(1), 1)


def test_an_attack_without_a_target_cannot_be_aimed_at_another() -> None:
    assert EveryClass().aimed_at(2) is None
