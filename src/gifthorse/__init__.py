"""gifthorse: plants, defends against, measures and audits neural backdoors in image classifiers.

Importing this package imports no torch; the names below are loaded when first used.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "core.attack": ["Attack"],
    "core.classifier": ["Classifier", "predict"],
    "core.configuration": ["Catalogue", "Configuration"],
    "core.defense": ["Defense"],
    "core.errors": ["RequestError", "StoreError"],
    "core.goal": ["AllToOne", "Goal"],
    "core.images": ["Images"],
    "core.outcomes": ["CleanModel", "InputScreen", "ModelVerdict", "RecoveredTriggers"],
    "core.recipe": ["Recipe"],
    "core.record": ["Record"],
    "core.task": ["Architecture", "Dataset", "Splits", "Task"],
    "core.trigger": ["Trigger", "blend"],
    "core.trojan": ["Backdoor", "Trojan"],
    "core.views": ["DataFreeView", "ModelView"],
    "attacks": ["ATTACKS"],
    "datasets": ["DATASETS"],
    "defenses": ["DEFENSES"],
    "models": ["ARCHITECTURES"],
    "bench.cell": ["Cell", "resolve"],
    "bench.runner": ["Runner", "pick_device"],
    "bench.store": ["Store"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gifthorse' has no attribute '{name}'")
    return getattr(import_module(f"gifthorse.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
