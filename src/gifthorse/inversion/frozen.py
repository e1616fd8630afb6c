"""A copy of a model made to be run often: no parameter gradients, batch normalisation folded away."""

import copy
from collections import Counter
from typing import TypeGuard, TypeVar

import torch
from torch import fx, nn
from torch.nn.utils import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)
L = TypeVar("L", bound=nn.Module)


def freeze(model: M) -> M:
    """Return a frozen copy in evaluation mode that computes the same function with less work.

    Every batch normalisation that directly follows a convolution is folded into it, where the module can be traced,
    both run once, and neither has hooks or weights that are computed (spectral normalisation); the parts keep their
    names. A module that cannot be traced is only frozen. Memory format is channels last, where the model allows it.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    try:
        graph = fx.Tracer().trace(frozen)
    except Exception:  # noqa: BLE001  # a network of somebody's may raise anything when it is shown no images
        return frozen.to(memory_format=torch.channels_last)
    calls = [node for node in graph.nodes if node.op == "call_module"]
    runs = Counter(str(node.target) for node in calls)
    for node in calls:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        first, second = str(source.target), str(node.target)
        if runs[first] > 1 or runs[second] > 1:
            continue  # each fold would change the layer for its other runs
        convolution, norm = frozen.get_submodule(first), frozen.get_submodule(second)
        if _is_plain(convolution, nn.Conv2d) and _is_plain(norm, nn.BatchNorm2d) and norm.track_running_stats:
            _replace(frozen, first, fuse_conv_bn_eval(convolution, norm))
            _replace(frozen, second, nn.Identity())
    return frozen.to(memory_format=torch.channels_last)


def _is_plain(layer: nn.Module, kind: type[L]) -> TypeGuard[L]:
    return type(layer) is kind and not layer._forward_hooks and not layer._forward_pre_hooks


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
