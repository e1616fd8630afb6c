"""Checkpoints of 100 MB that nobody vouches for: what reading them takes, against reading their bytes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torchvision.models import resnet50

from benchmarks.timing import Row, paired
from gifthorse.checkpoints import load_into, read_state_dict


def measure() -> list[Row]:
    network = resnet50()
    state = network.state_dict()
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_file(state, folder / "model.safetensors")
        torch.save({"model": {f"module.{name}": each for name, each in state.items()}}, folder / "model.pt")
        rows = []
        for path in sorted(folder.iterdir()):
            pairs = paired(lambda path=path: load_into(network, read_state_dict(path)), path.read_bytes)  # type: ignore[misc]
            rows.append(
                (
                    f"a checkpoint, {path.suffix}",
                    f"{pairs.ours:.2f} s",
                    "≤ 2 s",
                    f"{path.stat().st_size / 1e6:.0f} MB read, checked and loaded; its bytes alone {pairs.plain:.2f} s",
                )
            )
        return rows
