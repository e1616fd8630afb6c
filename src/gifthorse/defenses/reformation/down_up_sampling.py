"""Down-upsampling: make the image a little smaller and as large again, which blurs what is finer than its content.

Paper: Xu, Evans, Qi 2018, NDSS (feature squeezing), arXiv:1704.01155, section II; TrojanZoo section 4.3 and Table 21
    (anti-alias filter, ratio 0.95).
Differs: the filter is bilinear; which one TrojanZoo enlarges with is not printed. The small image's sides are rounded
    down, so that any image loses at least a row and a column.
"""

from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.defense import Defense
from gifthorse.core.evasion import Attacker, Evasion
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.views import DataFreeView
from gifthorse.transformations.spatial import down_and_up


class DownUpSampling(Defense[DataFreeView]):
    """Shrinks every input and enlarges it again before the model sees it."""

    name = "down_up_sampling"
    aliases = ("du",)
    paper = "Xu et al. 2018, arXiv:1704.01155; TrojanZoo section 4.3"
    family = "reformation"
    view = DataFreeView
    black_box = True
    offers = "reform"

    ratio: float = Field(0.95, gt=0, lt=1, description="height and width of the small image, as a share")

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:  # noqa: ARG002
        """Put the transformation in front."""
        return Evasion(reform=_DownUp(self.ratio))

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:  # noqa: ARG002
        """Put the transformation in front of the model."""
        reform = _DownUp(self.ratio)
        return CleanModel(view.model.behind(reform), reform)


class _DownUp(nn.Module):
    def __init__(self, ratio: float):
        super().__init__()
        self.ratio = ratio

    def forward(self, pixels: Tensor) -> Tensor:
        return down_and_up(pixels, self.ratio)
