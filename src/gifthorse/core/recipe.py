"""How a classifier is trained."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from gifthorse.core.configuration import Configuration
from gifthorse.core.pgd import PgdSteps


class Recipe(Configuration):
    """What every training has: SGD, a schedule, augmentation.

    TrojanZoo prints SGD's momentum, Nesterov and weight decay (Table 20) but not how its benign models are trained;
    epochs, learning rate, crop and flip are DHBE's (appendix A). The papers' whole recipes go by a name of their own
    (``dhbe``, ``trojanzoo``, ``rethink_vgg19``, ``aegis``, ...): they are presets of the paper profile.
    """

    catalogue = "training recipe"

    epochs: int = Field(200, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=2, description="images per step")
    lr: float = Field(0.1, gt=0, description="learning rate of SGD (the peak, where a schedule has one)")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    nesterov: bool = Field(True, description="Nesterov momentum")
    weight_decay: float = Field(2e-4, ge=0, description="L2 penalty")
    schedule: Literal["constant", "cosine", "one_cycle"] | tuple[Annotated[int, Field(ge=1)], ...] = Field(
        "cosine", description="learning rate over time; [100,150]: a tenth after each of so many epochs"
    )
    shift: int = Field(4, ge=0, description="random crop after padding by so many pixels; 0: none")
    flip: bool = Field(True, description="random left-right flip")
    compile: bool = Field(
        False,
        description="compile the network's passes (torch.compile, needs a C++ compiler): slow to start, for long "
        "trainings; attacks with a loss of their own on the latents train without",
    )

    @field_validator("schedule")
    @classmethod
    def _ends_after_its_milestones(cls, schedule: Any, info: ValidationInfo) -> Any:
        epochs = info.data.get("epochs")
        last = max(schedule, default=0) if isinstance(schedule, tuple) else -1
        if epochs is not None and last >= epochs:
            raise ValueError(f"the training ends after {epochs} epochs, so that the milestone {last} never comes")
        return schedule


class StandardRecipe(Recipe):
    """Training on the images as they are."""

    name = "standard"
    variants = (
        "standard[schedule=constant,nesterov=false]",
        "standard[schedule=one_cycle]",
        "standard[schedule=[1,3]]",
    )


class AdversarialRecipe(PgdSteps, Recipe):
    """PGD adversarial training: every batch is replaced by inputs that fool the model most within a small ball.

    Defaults are TrojanZoo's adversarial re-training (Table 21: linf, 8/255, steps of 2/255, 7 of them); AEGIS's are the
    presets ``aegis`` and ``aegis_mnist``.
    """

    name = "adversarial"
    aliases = ("pgd",)
    paper = "Madry et al. 2018, arXiv:1706.06083; TrojanZoo Table 21; AEGIS section IV"
    variants: ClassVar[tuple[str, ...]] = (
        "adversarial[norm=l2,radius=0.5,step_size=0.1]",
        "adversarial[start=image,returned=best]",
    )
