"""DHBE: an iteration against nothing but the forward and backward passes that it cannot do without.

An iteration of five student steps has five passes of each generator and of the teacher without a graph, and ten of the
student forward and back; then one of the sample generator forward and back, through teacher and student, whose weights
are fixed, and one of the trigger generator through the student.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from benchmarks.timing import Row, paired
from gifthorse.core.classifier import Classifier
from gifthorse.core.seeds import isolated
from gifthorse.core.views import DataFreeView
from gifthorse.defenses.sanitization.dhbe import Dhbe, Distillation
from gifthorse.inversion.frozen import freeze
from gifthorse.models.resnet import ResNet18
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.generators import PatchGenerator, SampleGenerator
from gifthorse.training.precision import fast_on_gpu

CLASSES = 10


def measure() -> list[Row]:
    small = SmallCnn().build((1, 28, 28), CLASSES, 0).eval()
    narrow = ResNet18(width=16, blocks=(1, 1, 1, 1)).build((3, 32, 32), CLASSES, 0).eval()
    return [
        _compare("small_cnn, 28×28", small, (1, 28, 28), Dhbe(iterations=4, batch_size=64, width=16)),
        _compare("resnet18[width=16], 32×32", narrow, (3, 32, 32), Dhbe(iterations=2, batch_size=64)),
    ]


def _compare(label: str, model: Classifier, shape: tuple[int, int, int], settings: Dhbe) -> Row:
    view = DataFreeView(model, shape=shape)
    floor = Floor(model, shape, settings)

    def ours() -> None:
        distillation = Distillation(settings, view, 0)
        for _ in range(settings.iterations):
            distillation.iterate()

    both = paired(ours, lambda: floor.run(settings.iterations), 5)
    how = (
        f"{settings.student_steps} student steps, batch {settings.batch_size}: {both.ours / settings.iterations:.2f} s"
    )
    return (f"DHBE iteration, {label}", f"{both.slower()}× its passes", "≤ 1.1", how)


class Floor:
    """The passes of some iterations, in the precision and layout of the device that the model is on."""

    def __init__(self, model: Classifier, shape: tuple[int, int, int], settings: Dhbe):
        self.settings, self.shape = settings, shape
        self.teacher, self.student = freeze(model), model.clone().to(memory_format=torch.channels_last).train()
        with isolated(0, "generators"):
            self.samples = SampleGenerator(shape, settings.noise, settings.width).to(model.device)
            self.patches = PatchGenerator(shape[0], settings.patch_size, settings.noise, settings.width)
            self.patches.to(model.device)
        if model.device.type == "cuda":
            self.samples.to(memory_format=torch.channels_last)
            self.patches.to(memory_format=torch.channels_last)
        self.noise = torch.randn(settings.batch_size, settings.noise, device=model.device)

    def run(self, iterations: int) -> None:
        for _ in range(iterations):
            for _ in range(self.settings.student_steps):
                with fast_on_gpu(self.noise.device):
                    with torch.no_grad():
                        pixels, stamped = self._made()
                        self.teacher(pixels)
                    loss = self.student(pixels).sum() + self.student(stamped).sum()
                loss.backward()
            self.student.requires_grad_(False)
            with fast_on_gpu(self.noise.device):
                pixels = self.samples(self.noise)
                gap = self.student(pixels).sum() + self.teacher(pixels).sum()
            gap.backward()
            with fast_on_gpu(self.noise.device):
                reaction = self.student(pixels.detach() + self._padded()).sum()
            reaction.backward()
            self.student.requires_grad_(True)
        for module in (self.student, self.samples, self.patches):
            nn.Module.zero_grad(module)

    def _made(self) -> tuple[Tensor, Tensor]:
        pixels: Tensor = self.samples(self.noise)
        return pixels, pixels + self._padded()

    def _padded(self) -> Tensor:
        size = self.settings.patch_size
        return pad(self.patches(self.noise), (0, self.shape[2] - size, 0, self.shape[1] - size))
