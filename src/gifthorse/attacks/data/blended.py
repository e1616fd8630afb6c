"""Blended: a pattern shines through, in a square or over the whole image.

Paper: Chen et al. 2017, arXiv:1712.05526 (blended injection), as Li et al. 2020, "Rethinking the Trigger of Backdoor
    Attack", arXiv:2004.04692, run it (section 5.1, appendix B: weight 0.2 within the pattern's covering box, a fifth
    of the training images).
Differs: the size of the black-and-white square is lost in print: 3 as in badnets, a checkerboard. The rest as in
    planting/poisoning.py.
"""

from pydantic import Field

from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.planting.pattern_search import PatternAttack
from gifthorse.planting.pictures import read_picture
from gifthorse.triggers.patch import Patch, PatchPattern, fill
from gifthorse.triggers.pattern import PatternTrigger


class Blended(PatternAttack):
    """Blends a faint pattern, or a picture, into training images and relabels them."""

    name = "blended"
    aliases = ("blended_attack",)
    paper = "Chen et al. 2017, arXiv:1712.05526; Li et al. 2020, arXiv:2004.04692"
    variants = ("blended[whole=true,trigger_pattern=random]",)

    poison_rate: float = Field(0.2, gt=0, lt=1, description="share of the images trained on that are stamped copies")
    trigger_pattern: PatchPattern = Field(
        "checkerboard", description="what the trigger shows; random: drawn once from the seed"
    )
    whole: bool = Field(False, description="blend over the whole image instead of a square")
    transparency: float = Field(0.8, ge=0, lt=1, description="α of the trigger: 1 less the weight of the pattern")

    def initial_trigger(self, task: Task, seed: int) -> PatternTrigger:
        """Return a square that shows the pattern or the picture, or one as large as the image."""
        if not self.whole:
            return super().initial_trigger(task, seed)
        for name in ("trigger_size", "trigger_shape", "trigger_position", "also_at"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise RequestError(f"whole=true leaves no place to choose: leave {name} out")
        channels, height, width = task.train.shape
        picture = next(iter(self.files()), None)
        if picture is None:
            pattern = fill(task.train.shape, self.trigger_pattern, generator(seed, "pattern"))
            return Patch(pattern.new_ones(1, height, width), pattern, self.transparency)
        pattern, mask = read_picture(picture, channels, height, width)
        return Patch(mask, pattern, self.transparency)
