"""What looks inside of a model whose truth is known, one analysis per file, listed here."""

from gifthorse.analyses.activation_tracing import ActivationTracing
from gifthorse.analyses.cdrp import Cdrp
from gifthorse.analyses.class_distances import ClassDistances
from gifthorse.analyses.entropy import Entropy
from gifthorse.analyses.feature_similarity import FeatureSimilarity
from gifthorse.analyses.gradcam import GradCam
from gifthorse.analyses.integrated_gradients import IntegratedGradients
from gifthorse.analyses.nsr import Nsr
from gifthorse.analyses.pca import Pca
from gifthorse.analyses.pseudo_linearity import PseudoLinearity
from gifthorse.analyses.saliency import Saliency
from gifthorse.analyses.trigger_gallery import TriggerGallery
from gifthorse.analyses.tsne import Tsne
from gifthorse.core.analysis import Analysis
from gifthorse.core.configuration import Catalogue

ANALYSES: Catalogue[Analysis] = Catalogue(
    "analysis",
    [
        Nsr,
        ActivationTracing,
        GradCam,
        Saliency,
        IntegratedGradients,
        Cdrp,
        FeatureSimilarity,
        PseudoLinearity,
        Tsne,
        Pca,
        Entropy,
        ClassDistances,
        TriggerGallery,
    ],
)
