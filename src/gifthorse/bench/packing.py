"""Trained models as the arrays that the store keeps, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from gifthorse.bench.store import Arrays
from gifthorse.core.attack import Attack
from gifthorse.core.classifier import Classifier
from gifthorse.core.goal import GOALS
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, Trojan
from gifthorse.triggers import TRIGGERS


def pack_trojan(trojan: Trojan) -> tuple[Arrays, dict[str, Any]]:
    """Return a trojan as arrays and a JSON-ready description."""
    arrays = {f"model/{name}": array for name, array in weights(trojan.model).items()}
    arrays |= {f"twin/{name}": array for name, array in weights(trojan.twin).items()}
    if trojan.backdoor is None:
        return arrays, {"backdoor": None}
    trigger, goal, poisoned = trojan.backdoor.trigger, trojan.backdoor.goal, trojan.backdoor.poisoned
    arrays |= {f"trigger/{name}": array for name, array in weights(trigger).items()}
    if poisoned is not None:
        arrays["poisoned"] = poisoned.cpu().numpy()
    about = {"trigger": trigger.name, "settings": trigger.settings(), "goal": goal.to_dict()}
    return arrays, {"backdoor": about}


def unpack_trojan(task: Task, attack: Attack, arrays: Arrays, about: Mapping[str, Any]) -> Trojan:
    """Rebuild what :func:`pack_trojan` took apart, on the task's device."""

    def part(prefix: str) -> Arrays:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    backdoor = None
    if about["backdoor"] is not None:
        buffers = {name: torch.from_numpy(array.copy()) for name, array in part("trigger/").items()}
        trigger = TRIGGERS[about["backdoor"]["trigger"]](**buffers, **about["backdoor"]["settings"])
        goal = about["backdoor"]["goal"]
        poisoned = torch.from_numpy(arrays["poisoned"].copy()) if "poisoned" in arrays else None
        backdoor = Backdoor(trigger.to(task.train.device), GOALS.find(goal["name"]).from_dict(goal), poisoned)
    model = restore(attack.empty_model(task), part("model/"))
    return Trojan(model, restore(task.build(0), part("twin/")), backdoor)


def weights(module: nn.Module) -> Arrays:
    """Return a module's parameters and buffers by name."""
    return {name: np.asarray(tensor.detach().cpu()) for name, tensor in module.state_dict().items()}


def restore(model: Classifier, arrays: Arrays) -> Classifier:
    """Load what :func:`weights` returned, and put the model in evaluation mode."""
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    return model.to(memory_format=torch.channels_last).eval()
