"""A detector of your own: slide a white square over clean images; does one place send them all to one class?

Paper: none; an example.
Differs: nothing.

Run:  python examples/own_detector.py
or    gifthorse run --plugin examples/own_detector.py --attack badnets --defense 'sliding_square[size=4]'
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import Field

from gifthorse import Defense, ModelVerdict, ModelView, Runner, Store, pick_device, predict, resolve


class SlidingSquare(Defense[ModelView]):
    """Flags a model that answers with one class wherever a white square covers the same place of any image."""

    name = "sliding_square"
    paper = "none; an example"
    family = "inspection"
    view = ModelView

    size: int = Field(3, ge=1, le=8, description="side of the square, in pixels")
    images: int = Field(50, ge=2, description="clean images that the square is laid on")
    threshold: float = Field(0.5, gt=0, lt=1, description="share of images above which a square is no harmless one")

    def skip(self, view: ModelView) -> str | None:
        """Ask for images, and for room to slide the square."""
        fits = min(view.shape[1:]) >= self.size
        return None if len(view.clean) and fits else f"needs clean images of at least {self.size} pixels a side"

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:
        """Score each class by the largest share of other classes' images that a square sends to it."""
        order = torch.randperm(len(view.clean), generator=torch.Generator().manual_seed(seed))
        clean = view.clean.take(order[: self.images].to(view.device))
        _, height, width = clean.shape
        scores = torch.zeros(view.classes, device=view.device)
        for top in range(height - self.size + 1):
            covered = []
            for left in range(width - self.size + 1):
                covered.append(clean.pixels.clone())
                covered[-1][:, :, top : top + self.size, left : left + self.size] = 255
            answers = predict(view.model, torch.cat(covered).float() / 255).argmax(1).view(len(covered), -1)
            for label in range(view.classes):
                others = clean.labels != label
                if others.any():
                    share = (answers[:, others] == label).float().mean(1).max()
                    scores[label] = torch.maximum(scores[label], share)
        highest = int(scores.argmax())
        found = float(scores[highest])
        return ModelVerdict(scores, highest if found > self.threshold else None, decisive=found)


def main() -> None:
    """Look at a benign and at a backdoored classifier of digits."""
    listed = resolve(dataset="digits", attack="badnets", profile="smoke")
    benign = resolve(dataset="digits", attack="none", profile="smoke")
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Store(Path(folder)), Path("data"), pick_device())
        for cell in (benign, listed):
            metrics = runner.run(replace(cell, defense=SlidingSquare())).metrics
            suspect = metrics.get("defense.suspect_class", "none")
            print(f"{cell.attack.name:8} index {metrics['defense.index']:.2f}, suspect class: {suspect}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
