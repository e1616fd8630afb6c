"""The settings of projected gradient descent on inputs, for recipes, attacks, defenses and the judge alike."""

from typing import Any, Literal

from pydantic import Field

from gifthorse.core.configuration import Configuration

Start = Literal["random", "image"]
Returned = Literal["last", "best"]


class PgdSteps(Configuration):
    """A ball around every image, and the steps in it: what those have as fields who search for inputs.

    Defaults are TrojanZoo's adversarial re-training (Table 21), from a random point to the last one as in Madry et al.
    The library that AEGIS trains with starts at the image and gives the best point (start=image, returned=best).
    """

    norm: Literal["linf", "l2"] = Field("linf", description="norm of the ball")
    radius: float = Field(8 / 255, gt=0, description="radius of the ball, in pixel units of [0,1]")
    step_size: float = Field(2 / 255, gt=0, description="length of a step, in the same units and norm")
    steps: int = Field(7, ge=1, description="steps per image")
    start: Start = Field("random", description="random: a point of the ball; image: its centre, so nothing is drawn")
    returned: Returned = Field("last", description="the last point, or of all visited the best by what is wanted")

    def search(self, *, targeted: bool = False, **changed: Any) -> "Pgd":
        """Return the search that takes these steps, some of them changed."""
        steps = {name: getattr(self, name) for name in PgdSteps.model_fields}
        return Pgd(**{**steps, "targeted": targeted, **changed})


class Pgd(PgdSteps):
    """One search, and what it wants."""

    name = "pgd"
    paper = "Madry et al. 2018, arXiv:1706.06083, section 2"

    targeted: bool = Field(
        False, description="true: towards the labels given, lowering their loss; false: away from them, raising it"
    )
