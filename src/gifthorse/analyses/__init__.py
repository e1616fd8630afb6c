"""What looks inside of a model whose truth is known, one analysis per file, listed here."""

from gifthorse.analyses.activation_tracing import ActivationTracing
from gifthorse.analyses.class_distances import ClassDistances
from gifthorse.analyses.entropy import Entropy
from gifthorse.analyses.feature_similarity import FeatureSimilarity
from gifthorse.analyses.nsr import Nsr
from gifthorse.analyses.pca import Pca
from gifthorse.analyses.pseudo_linearity import PseudoLinearity
from gifthorse.analyses.trigger_gallery import TriggerGallery
from gifthorse.analyses.tsne import Tsne
from gifthorse.core.analysis import Analysis
from gifthorse.core.configuration import Catalogue

ANALYSES: Catalogue[Analysis] = Catalogue(
    "analysis",
    [
        Nsr,
        ActivationTracing,
        FeatureSimilarity,
        PseudoLinearity,
        Tsne,
        Pca,
        Entropy,
        ClassDistances,
        TriggerGallery,
    ],
)
