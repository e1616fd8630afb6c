"""Peak memory of Neural Cleanse over many classes at 32×32, each in a process of its own."""

import subprocess
import sys

from benchmarks.timing import Row

SCRIPT = """
import resource, sys, torch
from gifthorse.core.images import Images
from gifthorse.core.views import ModelView
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.models.resnet import ResNet18
classes = int(sys.argv[1])
model = ResNet18().build((3, 32, 32), classes, 0).eval()
pixels = torch.randint(0, 256, (500, 3, 32, 32), dtype=torch.uint8)
view = ModelView(model, Images(pixels, torch.arange(500) % classes, classes))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
NeuralCleanse(steps=1, batches=1).defend(view, 0)
print(before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def measure() -> list[Row]:
    return [_row(classes) for classes in (43, 100)]


def _row(classes: int) -> Row:
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(classes)], capture_output=True, text=True, check=True
    ).stdout.split()
    before, after = map(int, found)
    how = f"resnet18 at full width, stamped images per pass by device; {before} MiB of it before the search"
    return f"peak memory, Neural Cleanse, {classes} classes, 32×32", f"{after} MiB", "≤ 4096", how
