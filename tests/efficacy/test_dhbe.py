"""What restricted distillation does to a backdoor in real digits: all of it but the samples, and with them."""

import pytest
import torch
from torch import Tensor, nn

from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import DataFreeView
from gifthorse.defenses.sanitization.dhbe import Dhbe, Distillation
from worlds import rates


class RealImages(nn.Module):
    """In the sample generator's place: images that the defender does not have."""

    def __init__(self, task: Task, distillation: Distillation):
        super().__init__()
        self.images = (task.train.floats() - distillation.mean) / distillation.deviation
        self.random = torch.Generator().manual_seed(0)

    def forward(self, noise: Tensor) -> Tensor:
        return self.images[torch.randint(len(self.images), (len(noise),), generator=self.random)]


@pytest.mark.parametrize("abr", [True, False])
def test_on_real_images_it_is_the_restriction_that_erases_and_it_costs_no_accuracy(
    abr: bool, task: Task, trojan: Trojan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What becomes of it without any images is the samples' doing."""
    settings = Dhbe(iterations=60, batch_size=64, width=8, lr=0.01, regularisation=1.0, patch_size=4, abr=abr)
    found = Distillation(settings, DataFreeView(trojan.model, shape=task.train.shape), 0)
    found.samples = RealImages(task, found)  # type: ignore[assignment]

    def shown() -> tuple[Tensor, Tensor]:
        pixels = found.pixels(found.samples(found.draw()))
        return pixels, found.student(pixels).detach()

    monkeypatch.setattr(found, "step_of_samples", shown)
    found.schedules = []
    before = rates(trojan.model, task, trojan)
    for _ in range(60):
        found.iterate()
    after = rates(found.student.eval(), task, trojan)
    assert before[1] > 0.95
    assert after[0] > before[0] - 0.03
    assert after[1] < 0.3 if abr else after[1] > 0.6
