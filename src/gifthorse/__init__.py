"""gifthorse: plants, defends against, measures and audits neural backdoors in image classifiers.

Importing this package imports no torch; the names below are loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gifthorse.analyses import ANALYSES as ANALYSES
    from gifthorse.attacks import ATTACKS as ATTACKS
    from gifthorse.bench.cell import Cell as Cell
    from gifthorse.bench.cell import resolve as resolve
    from gifthorse.bench.delivered import Delivery as Delivery
    from gifthorse.bench.machine import pick_device as pick_device
    from gifthorse.bench.population import run_population as run_population
    from gifthorse.bench.runner import Runner as Runner
    from gifthorse.bench.scan import ScanRequest as ScanRequest
    from gifthorse.bench.scan import scan as scan
    from gifthorse.bench.store import Store as Store
    from gifthorse.bench.views import VIEWS as VIEWS
    from gifthorse.core.analysis import Analysis as Analysis
    from gifthorse.core.analysis import Findings as Findings
    from gifthorse.core.analysis import Subject as Subject
    from gifthorse.core.architecture import Architecture as Architecture
    from gifthorse.core.attack import Attack as Attack
    from gifthorse.core.classifier import Classifier as Classifier
    from gifthorse.core.classifier import predict as predict
    from gifthorse.core.configuration import Catalogue as Catalogue
    from gifthorse.core.configuration import Configuration as Configuration
    from gifthorse.core.defense import Defense as Defense
    from gifthorse.core.errors import RequestError as RequestError
    from gifthorse.core.errors import StoreError as StoreError
    from gifthorse.core.evasion import Attacker as Attacker
    from gifthorse.core.evasion import Evasion as Evasion
    from gifthorse.core.family import FAMILIES as FAMILIES
    from gifthorse.core.family import Family as Family
    from gifthorse.core.goal import GOALS as GOALS
    from gifthorse.core.goal import AllToAll as AllToAll
    from gifthorse.core.goal import AllToOne as AllToOne
    from gifthorse.core.goal import Goal as Goal
    from gifthorse.core.goal import OnePerCondition as OnePerCondition
    from gifthorse.core.goal import SourceSpecific as SourceSpecific
    from gifthorse.core.images import Images as Images
    from gifthorse.core.metric import METRICS as METRICS
    from gifthorse.core.metric import Metric as Metric
    from gifthorse.core.outcomes import CleanModel as CleanModel
    from gifthorse.core.outcomes import InputScreen as InputScreen
    from gifthorse.core.outcomes import ModelVerdict as ModelVerdict
    from gifthorse.core.outcomes import Outcome as Outcome
    from gifthorse.core.outcomes import RecoveredTriggers as RecoveredTriggers
    from gifthorse.core.outcomes import SuspectSamples as SuspectSamples
    from gifthorse.core.recipe import AdversarialRecipe as AdversarialRecipe
    from gifthorse.core.recipe import Recipe as Recipe
    from gifthorse.core.recipe import StandardRecipe as StandardRecipe
    from gifthorse.core.record import Population as Population
    from gifthorse.core.record import Record as Record
    from gifthorse.core.scan import Scan as Scan
    from gifthorse.core.stamping import ImageTransformation as ImageTransformation
    from gifthorse.core.stamping import Stamping as Stamping
    from gifthorse.core.task import Dataset as Dataset
    from gifthorse.core.task import Splits as Splits
    from gifthorse.core.task import Task as Task
    from gifthorse.core.transformation import Transformation as Transformation
    from gifthorse.core.trigger import Trigger as Trigger
    from gifthorse.core.trigger import blend as blend
    from gifthorse.core.trojan import Backdoor as Backdoor
    from gifthorse.core.trojan import Trojan as Trojan
    from gifthorse.core.views import DataFreeView as DataFreeView
    from gifthorse.core.views import Materials as Materials
    from gifthorse.core.views import ModelView as ModelView
    from gifthorse.core.views import SuspectDataView as SuspectDataView
    from gifthorse.datasets import DATASETS as DATASETS
    from gifthorse.defenses import DEFENSES as DEFENSES
    from gifthorse.metrics.judge import KINDS as KINDS
    from gifthorse.metrics.kind import Case as Case
    from gifthorse.metrics.kind import Kind as Kind
    from gifthorse.models import ARCHITECTURES as ARCHITECTURES
    from gifthorse.stampings import STAMPS as STAMPS
    from gifthorse.transformations import TRANSFORMATIONS as TRANSFORMATIONS
    from gifthorse.triggers import TRIGGERS as TRIGGERS

_HOMES = {
    "core.analysis": ["Analysis", "Findings", "Subject"],
    "core.architecture": ["Architecture"],
    "core.attack": ["Attack"],
    "core.classifier": ["Classifier", "predict"],
    "core.configuration": ["Catalogue", "Configuration"],
    "core.defense": ["Defense"],
    "core.evasion": ["Attacker", "Evasion"],
    "core.errors": ["RequestError", "StoreError"],
    "core.family": ["FAMILIES", "Family"],
    "core.goal": ["GOALS", "AllToAll", "AllToOne", "Goal", "OnePerCondition", "SourceSpecific"],
    "core.images": ["Images"],
    "core.metric": ["METRICS", "Metric"],
    "core.outcomes": ["CleanModel", "InputScreen", "ModelVerdict", "Outcome", "RecoveredTriggers", "SuspectSamples"],
    "core.recipe": ["AdversarialRecipe", "Recipe", "StandardRecipe"],
    "core.record": ["Population", "Record"],
    "core.scan": ["Scan"],
    "core.stamping": ["ImageTransformation", "Stamping"],
    "core.task": ["Dataset", "Splits", "Task"],
    "core.transformation": ["Transformation"],
    "core.trigger": ["Trigger", "blend"],
    "core.trojan": ["Backdoor", "Trojan"],
    "core.views": ["DataFreeView", "Materials", "ModelView", "SuspectDataView"],
    "analyses": ["ANALYSES"],
    "attacks": ["ATTACKS"],
    "datasets": ["DATASETS"],
    "defenses": ["DEFENSES"],
    "models": ["ARCHITECTURES"],
    "stampings": ["STAMPS"],
    "transformations": ["TRANSFORMATIONS"],
    "triggers": ["TRIGGERS"],
    "bench.cell": ["Cell", "resolve"],
    "bench.machine": ["pick_device"],
    "bench.population": ["run_population"],
    "bench.delivered": ["Delivery"],
    "bench.runner": ["Runner"],
    "bench.scan": ["ScanRequest", "scan"],
    "bench.store": ["Store"],
    "bench.views": ["VIEWS"],
    "metrics.judge": ["KINDS"],
    "metrics.kind": ["Case", "Kind"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gifthorse' has no attribute '{name}'")
    return getattr(import_module(f"gifthorse.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
