"""What looks inside of a model whose truth is known, one analysis per file, listed here."""

from gifthorse.analyses.cdrp import Cdrp
from gifthorse.analyses.gradcam import GradCam
from gifthorse.analyses.integrated_gradients import IntegratedGradients
from gifthorse.analyses.nsr import Nsr
from gifthorse.analyses.saliency import Saliency
from gifthorse.core.analysis import Analysis
from gifthorse.core.configuration import Catalogue

ANALYSES: Catalogue[Analysis] = Catalogue("analysis", [Nsr, GradCam, Saliency, IntegratedGradients, Cdrp])
