"""The listed defenses."""

from typing import Any

from gifthorse.core.configuration import Catalogue
from gifthorse.core.defense import Defense
from gifthorse.defenses.combination.ensemble import Ensemble
from gifthorse.defenses.combination.pipeline import Pipeline
from gifthorse.defenses.filtering.neo import Neo
from gifthorse.defenses.filtering.strip import Strip
from gifthorse.defenses.inspection.abs import Abs
from gifthorse.defenses.inspection.deep_inspect import DeepInspect
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.defenses.inspection.neuron_inspect import NeuronInspect
from gifthorse.defenses.inspection.tabor import Tabor
from gifthorse.defenses.reformation.flip import Flip
from gifthorse.defenses.reformation.shrinkpad import ShrinkPad
from gifthorse.defenses.sanitization.fine_pruning import FinePruning
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
        Strip,
        Neo,
        ActivationClusteringScreen,
        SpectralSignaturesScreen,
        FinePruning,
        ActivationClustering,
        SpectralSignatures,
        NeuralCleanse,
        Tabor,
        Abs,
        DeepInspect,
        NeuronInspect,
        Pipeline,
        Ensemble,
    ],
)
