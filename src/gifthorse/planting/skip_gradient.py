"""Gradients of a residual network with one of its two ways through every block decayed; logits stay as they are.

Paper: TrojanZoo, section 6.2 (RQ5, figure 8): "a decay coefficient γ = 0.5 for the gradient through skip connections";
    Wu et al. 2020, arXiv:2002.05990: the gradient through the residual branches is decayed.
Differs: the two papers decay opposite ways through a block; ``through`` chooses, and the default is that of Wu et al.,
    whom TrojanZoo cites. They define the gradient of inputs only; here a branch is decayed where it joins the skip, so
    that the gradients of its own weights are decayed too, once. (Wu et al.'s program hooks the ReLUs instead.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from gifthorse.core.errors import RequestError
from gifthorse.models.wide_resnet import PreActivationBlock


@contextmanager
def skip_gradient_decay(
    model: nn.Module, gamma: float, *, through: Literal["residual", "skip"] = "residual"
) -> Iterator[None]:
    """Multiply gradients through every block's residual branch (or its skip) by ``gamma`` in ``(0, 1]`` inside.

    It holds for forward passes made inside the block, on this very model, whenever their gradient is taken; copies made
    inside keep it for good. :class:`RequestError` for a network that has no residual blocks.
    """
    if not 0 < gamma <= 1:
        raise RequestError(f"gamma={gamma:g} must lie in (0, 1]")
    factors: list[tuple[nn.Module, float]] = []
    for block, branch in residual_branches(model):
        if through == "residual":
            factors.append((branch, gamma))
        else:
            # An identity skip is no module: all that enters the block is decayed, and the branch's share restored.
            factors += [(block, gamma), (branch, 1 / gamma)]
    hooks = [module.register_forward_hook(_scaling(factor)) for module, factor in factors]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def residual_branches(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Return every residual block with the layer whose output is added to its skip, in order of definition.

    Known are torchvision's blocks, of which the residual networks are made, and the wide residual networks' own.
    :class:`RequestError` where there is none: densely connected and plain networks add nothing to a skip.
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck

    last: dict[type[nn.Module], str] = {BasicBlock: "bn2", Bottleneck: "bn3", PreActivationBlock: "conv2"}
    found = [
        (block, block.get_submodule(name))
        for block in model.modules()
        for kind, name in last.items()
        if isinstance(block, kind)
    ]
    if not found:
        raise RequestError("the model has no residual blocks whose gradient could be decayed: take a resnet or a wrn")
    return found


def _scaling(factor: float) -> Any:
    """Return a forward hook that multiplies the gradient of a module's output by ``factor``."""

    def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * factor)

    return hook
