"""The head and the stages of any network, found by running it once and watching its modules.

Head: the linear layer that runs last. Its output must be the network's output.

Stages: the maps ``(N, C, H, W)`` on the way from the image to the head, one for each resolution and number of
channels, each taken where it is finished (after its last activation). The way is that of the network's direct
children; a child that gives no map (a wrapper, a head), and one with maps of more than two resolutions inside (a
backbone), is opened. A residual block stays closed: it has two at most, before its stride and after it. No stage is
made of layers without weights (pooling), none follows the pooling to 1×1, and what does not have the image's
proportions (tokens, channels last) is no map. A network that goes on in those after its last map, as transformers do,
has no stages.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn

from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import isolated

Shape = tuple[int, ...]
_PASSIVE = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass
class _Run:
    """What one forward pass showed: per module, how often it ran, and the shape of its last output; in order."""

    image: tuple[int, int, int]
    times: Counter[str] = field(default_factory=Counter)
    shapes: dict[str, Shape] = field(default_factory=dict)
    linear: dict[str, Tensor] = field(default_factory=dict)

    def note(self, name: str, module: nn.Module, _: object, output: object) -> None:
        """Take in one module's output; a forward hook."""
        self.times[name] += 1
        self.shapes.pop(name, None)  # a module that runs again moves to the end
        if isinstance(output, Tensor):
            self.shapes[name] = tuple(output.shape)
            if isinstance(module, nn.Linear):
                self.linear[name] = output

    def is_map(self, name: str) -> bool:
        """Tell whether a module ran once and gave a map."""
        return self.times[name] == 1 and self.has_proportions(self.shapes.get(name, ()))

    def has_proportions(self, shape: Shape) -> bool:
        """Tell whether a shape is ``(N, C, H', W')`` with H' to W' as the image's height to width, up to rounding."""
        _, height, width = self.image
        return len(shape) == 4 and abs(shape[2] * width - shape[3] * height) <= max(height, width)


def examine(
    network: nn.Module,
    shape: tuple[int, int, int],
    head: str | None = None,
    stages: Sequence[str] | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Return the names of the head and of the stages of a network for images of ``shape`` (channels, height, width).

    What the caller names is checked, not searched; stages come back in the order in which they run.
    """
    run, logits = _watch(network, shape)
    head = _find_head(run, logits, head)
    if stages is None:
        return head, _find_stages(network, run)
    for name in stages:
        if len(run.shapes.get(name, ())) != 4 or run.times[name] != 1:
            raise RequestError(f"stage '{name}' is no module of the model that runs once and gives (N, C, H, W)")
    return head, tuple(sorted(stages, key=list(run.shapes).index))


def modules_before(network: nn.Module, shape: tuple[int, int, int], name: str) -> list[str]:
    """Return the names of the modules that have run, for images of ``shape``, by the time that module ``name`` ends.

    ``name`` itself is not among them; a container is where all that is in it is.
    """
    run, _ = _watch(network, shape)
    order = list(run.times)
    return order[: order.index(name)]


def _watch(network: nn.Module, shape: tuple[int, int, int]) -> tuple[_Run, Tensor]:
    """Run the network once, in evaluation mode, on two images of noise, and leave it as it was."""
    run = _Run(shape)
    weight = next(network.parameters(), torch.empty(0))
    modes = [(module, module.training) for module in network.modules()]
    hooks = [module.register_forward_hook(partial(run.note, name)) for name, module in network.named_modules()]
    try:
        network.eval()
        with isolated(0, "example"), torch.no_grad():
            logits = network(torch.randn(2, *shape, device="cpu").to(weight.device, weight.dtype))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        size = "×".join(map(str, shape))
        raise RequestError(f"the model cannot take an image of {size} (channels, height, width): {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 2:
        raise RequestError("the model does not give logits (N, K)")
    return run, logits


def _find_head(run: _Run, logits: Tensor, head: str | None) -> str:
    if not run.linear:
        raise RequestError("the model has no head: no linear layer (torch.nn.Linear) ran")
    if head is not None and head not in run.linear:
        raise RequestError(
            f"head '{head}' is no linear layer of the model that runs; these do: {', '.join(run.linear)}"
        )
    name = head if head is not None else list(run.linear)[-1]
    if run.times[name] != 1:
        raise RequestError(f"linear layer '{name}' cannot be the head: it runs {run.times[name]} times")
    output = run.linear[name]
    # Tensors on the meta device have no values to compare.
    same = output is logits or (not logits.is_meta and torch.equal(output, logits))
    if not same:
        raise RequestError(
            f"linear layer '{name}' cannot be the head: its output is not the model's output, the logits"
        )
    return name


def _find_stages(network: nn.Module, run: _Run) -> tuple[str, ...]:
    order = list(run.shapes)
    way: list[str] = []
    for name in sorted(_way(network, "", run), key=order.index):
        if run.shapes[name][2:] == (1, 1) and not _has_weights(network, name):
            break
        if not isinstance(network.get_submodule(name), _PASSIVE):
            way.append(name)
    groups = [list(group) for _, group in groupby(way, key=run.shapes.__getitem__)]
    stages = [group[-1] for group in groups if any(_has_weights(network, name) for name in group)]
    after = order[order.index(stages[-1]) :] if stages else []
    goes_on = any(len(run.shapes[name]) > 2 and not run.has_proportions(run.shapes[name]) for name in after)
    return () if goes_on else tuple(stages)


def _way(module: nn.Module, name: str, run: _Run) -> list[str]:
    """Return the modules inside ``module`` whose outputs lie on the way to the head."""
    found = []
    for key, child in module.named_children():
        inner = f"{name}.{key}" if name else key
        maps = _way(child, inner, run)
        backbone = len({run.shapes[part][2:] for part in maps}) > 2
        found += maps if backbone or not run.is_map(inner) else [inner]
    return found


def _has_weights(network: nn.Module, name: str) -> bool:
    return next(network.get_submodule(name).parameters(), None) is not None
