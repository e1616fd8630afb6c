"""Networks as people bring them: what is taken out of its wrapper, cast or refused; how any is copied and tried."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import isolated

log = logging.getLogger("gifthorse")

_INSIDE = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
}
"""Where torch's own wrappers keep the network that they run; by name, since importing all of them takes seconds."""

Layout = torch.memory_format


def prepared(network: object) -> nn.Module:
    """Return the network that is to be looked at: itself, or where it cannot be used as it is a copy that can.

    Wrappers of torch (data parallel, compiled) are taken off, and weights that are not float32 are cast to it in a
    copy, which is logged. :class:`RequestError` for what can be neither watched nor trained: TorchScript, quantized
    and lazy layers, and whatever is no module at all.
    """
    if not isinstance(network, nn.Module):
        what = "a state dict: build the network and load it" if isinstance(network, dict) else type(network).__name__
        raise RequestError(f"a network is a torch.nn.Module; this is {what}")
    while (inside := _inside(network)) is not None:
        network = inside
    for part in network.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise RequestError(
                "the model is TorchScript, whose layers can be neither watched nor trained: build the network from its "
                "code and load the scripted model's state_dict(), or export it to ONNX and ask it as a black box"
            )
        if ".quantized." in f"{type(part).__module__}.":
            raise RequestError(
                f"the model is quantized ({type(part).__name__}) and gives no gradients: bring it as it was before, or "
                "export it to ONNX and ask it as a black box"
            )
    tensors = [*network.parameters(), *network.buffers()]
    if any(is_lazy(tensor) for tensor in tensors):
        raise RequestError("the model has lazy layers without weights: run it once on an image before it is wrapped")
    foreign = sorted({str(each.dtype) for each in tensors if each.is_floating_point() and each.dtype != torch.float32})
    compiled = any(_inside(part) is not None or part._compiled_call_impl is not None for part in network.modules())
    if not foreign and not compiled:
        return network
    network = copied(network)
    for part in network.modules():
        for name, child in part.named_children():
            while (inside := _inside(child)) is not None:
                part._modules[name] = child = inside
    if foreign:
        types = ", ".join(each.removeprefix("torch.") for each in foreign)
        log.warning("the model's weights are %s; a copy of it that is cast to float32 is looked at", types)
        network = network.float()
    return network


def as_unwrapped(name: str, network: nn.Module) -> str:
    """Return the name that a module of the :func:`prepared` network has, which in its wrappers has a longer one."""
    try:
        network.get_submodule(name)
    except AttributeError:
        return ".".join(part for part in name.split(".") if part not in _INSIDE.values())
    return name


def _inside(network: nn.Module) -> nn.Module | None:
    """Return the network that one of torch's wrappers runs; ``None`` where this is no wrapper."""
    kind = type(network)
    own = _INSIDE.get(kind.__name__) if kind.__module__.startswith("torch.") else None
    return None if own is None else network._modules.get(own)


def copied(network: nn.Module) -> nn.Module:
    """Return an independent copy; :class:`RequestError` where something in it cannot be copied."""
    try:
        return copy.deepcopy(network, computed_tensors(network))
    except (TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise RequestError(f"the model cannot be copied, which every defense does: {reason_of(error)}") from error


def computed_tensors(network: nn.Module) -> dict[int, object]:
    """Return copies, by identity, of what a forward pass left in the modules with its gradient's history.

    A memo for :func:`copy.deepcopy`, which refuses such tensors: pruned or normalised weights, features kept for later.
    """
    kept: dict[int, object] = {}
    for part in network.modules():
        for value in vars(part).values():
            inner = (
                value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
            )
            for each in inner:
                if isinstance(each, Tensor) and each.grad_fn is not None:
                    kept[id(each)] = each.detach().clone()
    return kept


@contextmanager
def evaluating(model: nn.Module, training: bool = False) -> Iterator[None]:
    """Put a model into evaluation mode, or training mode, and every part of it back into the mode that it was in."""
    modes = [(part, part.training) for part in model.modules()]
    if any(mode != training for _, mode in modes):
        model.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def tried(network: nn.Module, shape: tuple[int, int, int], layout: Layout | None, *, training: bool = False) -> object:
    """Return what the network gives for two images of noise of ``shape``, in a memory layout; ``None`` is the usual.

    That is in evaluation mode unless said otherwise. Its weights are lent copies in that layout where theirs is
    another, and so are buffers in training mode. It is left as it was.
    """
    layout = layout or torch.contiguous_format
    weights = {
        name: tensor.detach().contiguous(memory_format=layout)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]
        if tensor.dim() == 4 and not tensor.is_contiguous(memory_format=layout)
    }
    if training:
        weights |= {name: tensor.clone() for name, tensor in network.named_buffers()}
    weight = next(network.parameters(), torch.empty(0))
    with evaluating(network, training), isolated(0, "example"), torch.no_grad():
        pixels = torch.randn(2, *shape, device="cpu").to(weight.device).contiguous(memory_format=layout)
        return functional_call(network, weights, (pixels,))


def in_layout(tensor: Tensor, layout: Layout) -> Tensor:
    """Return a tensor in a memory layout; one that is no batch of maps or kernel, ``(N, C, H, W)``, as it is."""
    return tensor.contiguous(memory_format=layout) if tensor.dim() == 4 else tensor


def reason_of(error: BaseException) -> str:
    """Return the first line of an error, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
