"""Very narrow networks train on processors without AVX-512, where oneDNN once corrupted memory."""

import os
import subprocess
import sys

import pytest

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MALLOC_PERTURB_": "165"}
CODE = """
import sys
import torch
from gifthorse.contracts.worlds import noise_images
from gifthorse.core.recipe import StandardRecipe
from gifthorse.models import ARCHITECTURES
from gifthorse.training.loop import fit

images = noise_images(64, (3, 32, 32), 4)
model = ARCHITECTURES.build(sys.argv[1]).build(images.shape, 4, 0)
fit(model, images, StandardRecipe(epochs=2, batch_size=32, lr=0.01, shift=1, flip=True), 0)
assert all(weight.isfinite().all() for weight in model.state_dict().values())
print("fine")
"""


@pytest.mark.parametrize("architecture", ["resnet18[width=4]", "wrn_16_1[width=4,blocks=1]"])
def test_training_does_not_end_the_interpreter(architecture: str) -> None:
    command = [sys.executable, "-c", CODE, architecture]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **AVX2}, timeout=300)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
