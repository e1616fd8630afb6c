"""A copy of a model made for input gradients: no parameter gradients, batch normalisation folded away."""

import copy
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.utils import fuse_conv_bn_eval


def freeze(model: nn.Module) -> nn.Module:
    """Return a frozen copy in evaluation mode that computes the same function with less work.

    Every batch normalisation that directly follows a convolution is folded into it where the module can be traced and
    the convolution runs once; a module that cannot is only frozen. Memory format is channels last.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    try:
        traced = fx.symbolic_trace(frozen)
    except (fx.proxy.TraceError, TypeError, RuntimeError):
        return frozen
    modules = dict(traced.named_modules())
    runs = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        if runs[str(source.target)] > 1:
            continue  # each fold would change the convolution for its other runs
        convolution, norm = modules[str(source.target)], modules[str(node.target)]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
            name = str(source.target)
            parent, _, child = name.rpartition(".")
            modules[name] = fuse_conv_bn_eval(convolution, norm)
            setattr(traced.get_submodule(parent), child, modules[name])
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
