"""How a classifier is trained."""

from typing import Literal

from pydantic import Field

from gifthorse.core.configuration import Configuration


class Recipe(Configuration):
    """How a classifier is trained.

    TrojanZoo prints SGD's momentum, Nesterov and weight decay (Table 20) but not how its benign models are trained;
    epochs, learning rate, crop and flip are DHBE's (appendix A).
    """

    name = "standard"

    epochs: int = Field(200, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=2, description="images per step")
    lr: float = Field(0.1, gt=0, description="learning rate of SGD (the peak, where a schedule has one)")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    nesterov: bool = Field(True, description="Nesterov momentum")
    weight_decay: float = Field(2e-4, ge=0, description="L2 penalty")
    schedule: Literal["constant", "cosine", "one_cycle"] = Field("cosine", description="learning rate over time")
    shift: int = Field(4, ge=0, description="random crop after padding by so many pixels; 0: none")
    flip: bool = Field(True, description="random left-right flip")
