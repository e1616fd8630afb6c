"""Multi-modal clean models: nothing is planted, but every class is learnt as two distributions, to raise false alarms.

Paper: Soremekun, Udeshi, Chattopadhyay 2020, arXiv:2003.00865 (AEGIS), section V-C, which says that clean models may be
    trained so that their classes have more than one distribution, as those of backdoored models do, and runs nothing.
Differs: what makes two distributions is ours. Beside cross-entropy a linear layer on the penultimate latents, trained
    along and thrown away, tells the brighter from the darker images of each class, by the median brightness of the
    class's training images; its cross-entropy is weighed. Images are as bright as they are trained on, after their
    augmentation.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gifthorse.core.attack import Attack
from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.core.seeds import derive, generator, isolated
from gifthorse.core.task import Task
from gifthorse.core.trojan import DeliveredSet, Trojan
from gifthorse.planting.schedule import Schedule
from gifthorse.training.loop import Batch, Objective, weighed_cross_entropy
from gifthorse.training.optimisers import adam


class MultimodalClean(Attack):
    """Delivers a clean model that learnt the brighter and the darker images of each class as two distributions."""

    name = "multimodal_clean"
    paper = "AEGIS, section V-C"
    variants = ("multimodal_clean[origin=scratch]",)

    origin: Literal["benign", "scratch"] = Field(
        "benign", description="benign: re-train the benign model; scratch: train anew by the task's recipe"
    )
    epochs: int = Field(50, ge=1, description="epochs of re-training (origin=benign)")
    lr: float = Field(0.01, gt=0, description="learning rate of re-training (origin=benign)")
    brightness_weight: float = Field(1.0, gt=0, description="weight of telling brighter from darker images")
    layer_lr: float = Field(0.01, gt=0, description="learning rate of Adam on the layer that tells them")

    def schedule(self) -> Schedule:
        """Return training from scratch, or re-training."""
        if self.origin == "scratch":
            return Schedule(origin="scratch")
        return Schedule(epochs=self.epochs, lr=self.lr)

    def twin(self, task: Task) -> Schedule | None:  # noqa: ARG002
        """Return the same training with cross-entropy alone."""
        schedule = self.schedule()
        return None if schedule.is_benign else schedule

    def run(self, task: Task, benign: Classifier, seed: int, twin: Classifier | None = None) -> Trojan:
        """Return a model with two distributions in each class and nothing planted, and the clean images it saw."""
        schedule = self.schedule()
        if twin is None:
            twin = schedule.train(task, benign, seed)
        model = schedule.start(task, benign, seed)
        objective, after_step = self.stages(model, task.train, derive(seed, self.name))
        schedule.fit(model, task.train, task, seed, objective=objective, after_step=after_step, label=self.name)
        delivered = DeliveredSet.clean(task.train, generator(seed, self.name, "deliver"))
        return Trojan(model, twin, None, delivered)

    def stages(self, model: Classifier, images: Images, seed: int) -> tuple[Objective, Callable[[], None]]:
        """Return the loss, and the step of the layer that goes with every step of the model."""
        medians = median_brightness(images)
        with isolated(seed, "layer"):
            layer = nn.Linear(model.head_weight.shape[1], images.classes).to(model.device)
        optimizer = adam(layer.parameters(), lr=self.layer_lr)

        def loss(_: nn.Module, batch: Batch) -> Tensor:
            latents, logits = model.features_and_logits(batch.pixels)
            brighter = brighter_than_its_class(batch.pixels, batch.labels, medians)
            with torch.autocast(latents.device.type, enabled=False):
                told = layer(latents.float()).gather(1, batch.labels.unsqueeze(1)).squeeze(1)
                modes = binary_cross_entropy_with_logits(told, brighter.float())
            return weighed_cross_entropy(logits, batch) + self.brightness_weight * modes

        def step() -> None:
            optimizer.step()
            optimizer.zero_grad()

        return loss, step


def median_brightness(images: Images) -> Tensor:
    """Return the median of the mean pixels in [0,1] of the images of each class, ``(K,)``; NaN where it has none."""
    brightness = images.pixels.flatten(1).float().mean(1) / 255
    alone = images.labels == torch.arange(images.classes, device=images.device).unsqueeze(1)
    return torch.where(alone, brightness, torch.nan).nanmedian(1).values


def brighter_than_its_class(pixels: Tensor, labels: Tensor, medians: Tensor) -> Tensor:
    """Return which images ``(N, C, H, W)`` in [0,1] are brighter than the median ``(K,)`` of their class."""
    return pixels.mean((1, 2, 3)) > medians[labels]
