"""Label-consistent backdoor: images of the target class lose their own features, so that a model learns the trigger.

Paper: Turner, Tsipras, Madry 2019, arXiv:1912.02771, section 3.2, as "Rethinking the Trigger", arXiv:2004.04692, has it
    (section 5.1, appendix B: a quarter of the target class, a symmetric trigger), and DHBE (appendix A: 300 images of
    the target class, one square at the bottom right: trigger_position=bottom_right,also_at=[],poison_rate=0.06).
Differs: the search's radius and steps are lost in print: 16/255, steps of 1.5/255, 100 of them, against the benign
    model, where Turner et al. take a robust one. All images of the target class are moved, once for every rate and
    trigger, though few are stamped. The trigger is opaque. The rest as in planting/poisoning.py.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.attack import Preparation
from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images, to_levels
from gifthorse.core.pgd import PgdSteps, Start
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.planting.mixing import PoisonedSet, choose_from_target, poison_in_place
from gifthorse.planting.patches import PatchAttack, Place
from gifthorse.planting.poisoning import Injection, PoisoningAttack
from gifthorse.planting.targets import OneTarget
from gifthorse.training.adversarial import perturb
from gifthorse.triggers.patch import Corner, PatchPattern

AT_ONCE = 256
MOVED = "moved"
"""The target class's training images ``uint8 (T, C, H, W)``, moved away from it, in their order."""


class MovedImages(PgdSteps, Preparation):
    """Moves all training images of one class away from it by PGD against the benign model."""

    name = "moved_images"
    paper = "Turner et al. 2019, arXiv:1912.02771, section 3.2"

    target: int = Field(ge=0, description="class whose images are moved")

    def prepare(self, task: Task, benign: Classifier, seed: int) -> dict[str, Tensor]:
        """Return the moved images, on the 8-bit grid."""
        model = benign.clone().requires_grad_(False)
        random = generator(seed, self.name, device=task.train.device)
        parts = (task.train.labels == self.target).nonzero().squeeze(1).split(AT_ONCE)
        moved = [torch.empty_like(task.train.pixels[:0])]
        for part in track(parts, "moving images of the target class", len(parts)):
            images = task.train.take(part)
            moved.append(to_levels(perturb(model, images.floats(), images.labels, self.search(), random)))
        return {MOVED: torch.cat(moved)}


class LabelConsistent(OneTarget, PatchAttack, PgdSteps, PoisoningAttack):
    """Stamps images of the target class that fool a benign model, and keeps their label."""

    name = "label_consistent"
    aliases = ("clean_label", "consistent")
    paper = "Turner et al. 2019, arXiv:1912.02771"
    variants = ("label_consistent[also_at=[],poison_rate=0.5,norm=l2,radius=2.0,step_size=0.2]",)

    origin: Literal["benign", "scratch"] = Field(
        "scratch", description="benign: re-train the benign model; scratch: train anew by the task's recipe"
    )
    mixing: Literal["dataset"] = Field("dataset", description="images of the target class are stamped where they are")
    poison_rate: float = Field(0.25, gt=0, lt=1, description="share of the target class's images that are stamped")
    trigger_pattern: PatchPattern = Field(
        "checkerboard", description="what the trigger shows; random: drawn once from the seed"
    )
    trigger_position: Corner | Place = Field(
        "bottom_right", description="corner, center, or [row, column] of the square trigger's top left"
    )
    also_at: tuple[Corner | Place, ...] = Field(
        ("top_left", "top_right", "bottom_left"),
        description="further places of the trigger, corners or [row, column]; in another corner it is mirrored",
    )
    radius: float = Field(16 / 255, gt=0, description="radius of the ball, in pixel units of [0,1]")
    step_size: float = Field(1.5 / 255, gt=0, description="length of a step, in the same units and norm")
    steps: int = Field(100, ge=1, description="steps per image")
    start: Start = Field("image", description="random: a point of the ball; image: its centre, so nothing is drawn")

    @property
    def relabels(self) -> bool:
        """Whether stamped images get another label: never."""
        return False

    def preparation(self, task: Task) -> MovedImages:  # noqa: ARG002
        """Return the search for images of the target class that fool the benign model."""
        return MovedImages(target=self.target, **{name: getattr(self, name) for name in PgdSteps.model_fields})

    def choose(self, injection: Injection) -> Tensor:
        """Return the positions ``int64 (P,)`` of the images of the target class to stamp."""
        return choose_from_target(injection.images.labels, injection.backdoor.goal, self.poison_rate, injection.random)

    def poison(self, injection: Injection) -> PoisonedSet:
        """Return the training set with the chosen images moved away from their class and stamped."""
        chosen, pixels = self.choose(injection), injection.images.pixels.clone()
        places = (injection.task.train.labels == self.target).cumsum(0) - 1
        pixels[chosen] = injection.task.prepared[MOVED][places[injection.positions[chosen]]]
        moved_set = Images(pixels, injection.images.labels, injection.images.classes)
        return poison_in_place(moved_set, injection.backdoor, chosen, injection.random)

    def check_choice(self, task: Task) -> None:
        """Refuse a rate that selects no image of the target class."""
        choose_from_target(task.train.labels.cpu(), self.goal(task), self.poison_rate, generator(0, "check"))
