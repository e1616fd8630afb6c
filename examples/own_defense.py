"""A defense of your own, judged beside the listed ones: blur every input before the model sees it.

Paper: none; an example.
Differs: nothing.

Run:  python examples/own_defense.py
or    gifthorse run --plugin examples/own_defense.py --attack badnets --defense 'blur[size=5]'
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from gifthorse import CleanModel, DataFreeView, Defense, Runner, Store, pick_device, resolve


class Blur(Defense[DataFreeView]):
    """Averages every pixel with its neighbours."""

    name = "blur"
    paper = "none; an example"
    family = "reformation"
    view = DataFreeView

    size: int = Field(3, ge=1, le=9, description="side of the window, in pixels; odd")

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:
        """Put the blur in front of a copy of the model."""
        reform = _Average(self.size)
        return CleanModel(nn.Sequential(reform, view.model.clone()).eval(), reform)


class _Average(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, pixels: Tensor) -> Tensor:
        return avg_pool2d(pixels, self.size, stride=1, padding=self.size // 2, count_include_pad=False)


def main() -> None:
    """Judge the blur against BadNets on digits."""
    listed = resolve(dataset="digits", attack="badnets", defense="shrinkpad", profile="smoke")
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Store(Path(folder)), Path("data"), pick_device())
        for defense in (listed.defense, Blur(), Blur(size=5)):
            record = runner.run(replace(listed, defense=defense))
            accuracy, success = record.metrics["defense.acc"], record.metrics["defense.asr"]
            print(f"{defense!s:20} accuracy {accuracy:.3f}, attack success {success:.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
