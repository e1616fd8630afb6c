"""The listed defenses."""

from typing import Any

from gifthorse.core.configuration import Catalogue
from gifthorse.core.defense import Defense
from gifthorse.defenses.combination.ensemble import Ensemble
from gifthorse.defenses.combination.inverted_images import InvertedImages
from gifthorse.defenses.combination.pipeline import Pipeline
from gifthorse.defenses.filtering.attribution_detector import AttributionDetector
from gifthorse.defenses.filtering.neo import Neo
from gifthorse.defenses.filtering.reconstruction_filter import ReconstructionFilter
from gifthorse.defenses.filtering.strip import Strip
from gifthorse.defenses.inspection.abs import Abs
from gifthorse.defenses.inspection.aegis import Aegis
from gifthorse.defenses.inspection.deep_inspect import DeepInspect
from gifthorse.defenses.inspection.mesa import Mesa
from gifthorse.defenses.inspection.mntd import Mntd
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.defenses.inspection.neuron_inspect import NeuronInspect
from gifthorse.defenses.inspection.tabor import Tabor
from gifthorse.defenses.reformation.down_up_sampling import DownUpSampling
from gifthorse.defenses.reformation.februus import Februus
from gifthorse.defenses.reformation.manifold_projection import AutoEncoder, ManifoldProjection
from gifthorse.defenses.reformation.randomized_smoothing import RandomizedSmoothing
from gifthorse.defenses.reformation.transformation import (
    Brightness,
    CompoundTransformation,
    Contrast,
    Crop,
    Flip,
    GaussianNoise,
    Hue,
    Resize,
    Saturation,
    ShrinkPad,
)
from gifthorse.defenses.sanitization.adversarial_retraining import AdversarialRetraining
from gifthorse.defenses.sanitization.dhbe import Dhbe
from gifthorse.defenses.sanitization.fine_pruning import FinePruning
from gifthorse.defenses.sanitization.finetuning import Finetuning
from gifthorse.defenses.sanitization.gdm import Gdm
from gifthorse.defenses.sanitization.inverted_data_distillation import InvertedDataDistillation
from gifthorse.defenses.sanitization.mcr import Mcr
from gifthorse.defenses.sanitization.nad import Nad
from gifthorse.defenses.sanitization.neural_cleanse_unlearning import NeuralCleanseUnlearning
from gifthorse.defenses.training_set_filtering.activation_clustering import (
    ActivationClustering,
    ActivationClusteringScreen,
)
from gifthorse.defenses.training_set_filtering.spectral_signatures import SpectralSignatures, SpectralSignaturesScreen

DEFENSES: Catalogue[Defense[Any]] = Catalogue(
    "defense",
    [
        ShrinkPad,
        Flip,
        Resize,
        Crop,
        GaussianNoise,
        Hue,
        Contrast,
        Brightness,
        Saturation,
        CompoundTransformation,
        RandomizedSmoothing,
        DownUpSampling,
        ManifoldProjection,
        AutoEncoder,
        Februus,
        Strip,
        ReconstructionFilter,
        Neo,
        AttributionDetector,
        ActivationClusteringScreen,
        SpectralSignaturesScreen,
        Finetuning,
        FinePruning,
        AdversarialRetraining,
        NeuralCleanseUnlearning,
        Dhbe,
        InvertedDataDistillation,
        Gdm,
        Nad,
        Mcr,
        ActivationClustering,
        SpectralSignatures,
        NeuralCleanse,
        Tabor,
        Abs,
        Aegis,
        DeepInspect,
        NeuronInspect,
        Mesa,
        Mntd,
        Pipeline,
        Ensemble,
        InvertedImages,
    ],
    # Settings that papers print by another name; what they leave open stays as it is without it.
    {
        "fp_dhbe": "fine_pruning[epochs=20,batch_size=64,lr=0.01,momentum=0.9,nesterov=false,schedule=[10,15],"
        "samples=2000]",
        "mntd_dynamic": "mntd[shadows=100,classifiers=50,threshold=median]",
        "pure_ad": "dhbe[abr=false]",
        "fp_rethink": "fine_pruning[prune_ratio=0.99,validation=0.5,epochs=0]",
    },
)
