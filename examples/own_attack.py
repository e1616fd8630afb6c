"""An attack of your own: BadNets with a frame around the image as its trigger.

Paper: none; an example.
Differs: nothing.

Run:  python examples/own_attack.py
or    gifthorse run --plugin examples/own_attack.py --attack 'frame[origin=scratch,poison_rate=0.1]'
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from gifthorse import Classifier, Runner, Store, Task, pick_device, resolve
from gifthorse.planting.poisoning import PoisoningAttack
from gifthorse.planting.targets import OneTarget
from gifthorse.triggers.patch import Patch


class Frame(OneTarget, PoisoningAttack):
    """Draws a white frame on training images and relabels them."""

    name = "frame"
    paper = "none; an example"

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Patch:
        """Return the frame, one pixel wide."""
        frame = torch.ones(1, *task.train.shape[1:])
        frame[:, 1:-1, 1:-1] = 0
        return Patch(frame, torch.ones(task.train.shape))


def main() -> None:
    """Plant the frame and the listed patch, and compare."""
    listed = resolve(dataset="digits", attack="badnets", profile="smoke")
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Store(Path(folder)), Path("data"), pick_device())
        for attack in (listed.attack, Frame(origin="scratch", poison_rate=0.1)):
            record = runner.run(replace(listed, attack=attack))
            accuracy, success = record.metrics["attack.acc"], record.metrics["attack.asr"]
            print(f"{attack.name:8} accuracy {accuracy:.3f}, attack success {success:.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
