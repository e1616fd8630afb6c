"""Grad-CAM: which places of a stage's maps an answer comes from.

Paper: Selvaraju et al. 2017, arXiv:1610.02391, section 3, equations 1 and 2; as TrojanZoo (Pang et al. 2022,
    arXiv:2012.09302) uses it in section 6.4 (RQ9) and Table 19.
Differs: nothing but what :mod:`gifthorse.analyses.attribution_maps` says.
"""

from pydantic import Field
from torch import Tensor

from gifthorse.analyses.attribution_maps import AttributionMaps
from gifthorse.core.analysis import stage_called
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Task
from gifthorse.inversion.attribution import grad_cam, tells_places


class GradCam(AttributionMaps):
    """Compares Grad-CAM maps with the trigger and without, of two classes, on a model and its benign twin."""

    name = "gradcam"
    aliases = ("grad_cam",)
    paper = "Selvaraju et al. 2017, arXiv:1610.02391; Pang et al. 2022, arXiv:2012.09302, section 6.4"

    of_pixels = False

    stage: str | None = Field(None, description="stage of the network whose maps are weighed; null: the last")

    def check(self, model: Classifier, task: Task) -> None:
        """Refuse a stage that the network does not have, or whose maps have one place alone."""
        super().check(model, task)
        stage = stage_called(model, self.stage, self.name)
        if not tells_places(model, task.test.shape, stage):
            raise RequestError(
                f"{self.name}: the maps of stage '{stage}' have one place alone; an earlier stage may have more: "
                f"the network has {', '.join(model.stage_names)}"
            )

    def attribute(self, model: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return Grad-CAM maps ``(L, N, H', W')``, as large as those of the stage."""
        return grad_cam(model, pixels, stage_called(model, self.stage, self.name), labels)[0]
