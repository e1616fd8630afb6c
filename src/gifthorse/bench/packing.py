"""Trained models as the arrays that the store keeps, and back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import nn

from gifthorse.bench.store import Arrays
from gifthorse.core.attack import Attack
from gifthorse.core.classifier import Classifier
from gifthorse.core.goal import GOALS
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, DeliveredSet, Trojan
from gifthorse.triggers import TRIGGERS


def pack_trojan(trojan: Trojan) -> tuple[Arrays, dict[str, Any]]:
    """Return a trojan, without its twin, as arrays and a JSON-ready description."""
    arrays = {f"model/{name}": array for name, array in weights(trojan.model).items()}
    if trojan.delivered is not None:
        parts = {field.name: getattr(trojan.delivered, field.name) for field in fields(DeliveredSet)}
        arrays |= {f"delivered/{name}": tensor.cpu().numpy() for name, tensor in parts.items()}
    if trojan.backdoor is None:
        return arrays, {"backdoor": None}
    trigger, goal = trojan.backdoor.trigger, trojan.backdoor.goal
    if TRIGGERS.get(trigger.name) is not type(trigger):
        listing = f"gifthorse.triggers.TRIGGERS['{trigger.name}'] is not this class"
        raise TypeError(f"{type(trigger).__name__} cannot be read back: {listing}")
    arrays |= {f"trigger/{name}": array for name, array in weights(trigger).items()}
    about = {"trigger": trigger.name, "settings": trigger.settings(), "goal": goal.to_dict()}
    return arrays, {"backdoor": about}


def unpack_trojan(task: Task, attack: Attack, twin: Classifier, arrays: Arrays, about: Mapping[str, Any]) -> Trojan:
    """Rebuild what :func:`pack_trojan` took apart, on the task's device, beside its twin."""

    def part(prefix: str) -> Arrays:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    def tensors(prefix: str) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array.copy()) for name, array in part(prefix).items()}

    backdoor, device = None, task.train.device
    if about["backdoor"] is not None:
        goal = about["backdoor"]["goal"]
        trigger = TRIGGERS[about["backdoor"]["trigger"]].restore(about["backdoor"]["settings"], tensors("trigger/"))
        backdoor = Backdoor(trigger.to(device), GOALS.find(goal["name"]).from_dict(goal))
    parts = {name: tensor.to(device) for name, tensor in tensors("delivered/").items()}
    model = restore(attack.empty_model(task), part("model/"))
    return Trojan(model, twin, backdoor, DeliveredSet(**parts) if parts else None)


def weights(module: nn.Module) -> Arrays:
    """Return a module's parameters and buffers by name."""
    return {name: np.asarray(tensor.detach().cpu()) for name, tensor in module.state_dict().items()}


def restore(model: Classifier, arrays: Arrays) -> Classifier:
    """Load what :func:`weights` returned, and put the model in evaluation mode."""
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    return model.to(memory_format=torch.channels_last).eval()
