"""The head and the stages of any network, its output and its memory layout, found by running it and watching.

Head: the linear layer that runs last, or a convolution to one map per class, as where a network is convolutional
throughout. What follows it must treat all classes alike and each by itself (pooling, softmax): the model's output is
that of the head, or moves with it when its classes change places.

Stages: the maps ``(N, C, H, W)`` on the way from the image to the head, one for each resolution and number of
channels, each taken where it is finished (after its last activation). The way is that of the network's direct
children; a child that gives no map (a wrapper, a head), and one with maps of more than two resolutions inside (a
backbone), is opened. A residual block stays closed: it has two at most, before its stride and after it. No stage is
made of layers without weights (pooling), none follows the pooling to 1×1, and what does not have the image's
proportions (tokens, channels last) is no map. A network that goes on in those after its last map, as transformers do,
has no stages.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from gifthorse.core.errors import RequestError
from gifthorse.core.networks import Layout, reason_of, tried
from gifthorse.core.reading import PLAIN, Ending, Reading, ending_of, reading_of
from gifthorse.core.seeds import generator

log = logging.getLogger("gifthorse")

Shape = tuple[int, ...]
_Led = Callable[[Callable[[Tensor], Tensor]], Tensor]
"""Returns the logits where what the head gives is changed."""
_LedBy = Callable[[str, Callable[[Tensor], Tensor]], Tensor]
_PASSIVE = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class Anatomy:
    """What :func:`examine` found: names of head and stages, how logits are read, the layout that is insisted on.

    ``training`` is how they are read in training mode, in which networks with further heads give more.
    """

    head: str
    stages: tuple[str, ...]
    reading: Reading | None
    training: Reading | None
    layout: Layout | None


@dataclass
class _Run:
    """What one forward pass showed: per module, how often it ran, and the shape of its last output; in order.

    ``linear`` holds what linear layers gave, ``mapping`` names the convolutions whose weights can be read as a matrix.
    """

    image: tuple[int, int, int]
    times: Counter[str] = field(default_factory=Counter)
    shapes: dict[str, Shape] = field(default_factory=dict)
    linear: dict[str, Tensor] = field(default_factory=dict)
    mapping: list[str] = field(default_factory=list)

    def note(self, name: str, module: nn.Module, _: object, output: object) -> None:
        """Take in one module's output; a forward hook."""
        self.times[name] += 1
        self.shapes.pop(name, None)  # a module that runs again moves to the end
        if isinstance(output, Tensor):
            self.shapes[name] = tuple(output.shape)
            if isinstance(module, nn.Linear):
                self.linear[name] = output
            elif isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros":
                self.mapping.append(name)

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
    *,
    output: str | int | None = None,
    probabilities: bool = False,
) -> Anatomy:
    """Return the head and the stages of a network for images of ``shape`` (channels, height, width), and more.

    What the caller names is checked, not searched; stages come back in the order in which they run. ``output`` names
    the entry of the network's output that holds the logits; ``probabilities`` says that they are to be undone.
    """
    layout, run, given = _watch_in_its_layout(network, shape)
    reading = reading_of(given, output)

    def led_by(name: str, change: Callable[[Tensor], Tensor]) -> Tensor:
        return _led_by(network, run, name, change, reading, layout)

    head, direct = _find_head(network, run, reading(given), head, led_by)
    reading = replace(reading, undo=None if direct else _undone(partial(led_by, head), probabilities))
    if direct and probabilities:
        raise RequestError("probabilities=True: the model gives logits; there is no softmax or sigmoid to undo")
    if stages is None:
        found = _find_stages(network, run, head)
    else:
        for name in stages:
            if len(run.shapes.get(name, ())) != 4 or run.times[name] != 1:
                raise RequestError(f"stage '{name}' is no module of the model that runs once and gives (N, C, H, W)")
        found = tuple(sorted(stages, key=list(run.shapes).index))
    plain = reading == PLAIN and isinstance(given, Tensor) and given.dim() == 2 and given.dtype == torch.float32
    read = None if plain else reading
    return Anatomy(head, found, read, _in_training(network, shape, head, given, read, layout), layout)


def modules_before(network: nn.Module, shape: tuple[int, int, int], name: str) -> list[str]:
    """Return the names of the modules that have run, for images of ``shape``, by the time that module ``name`` ends.

    ``name`` itself is not among them; a container is where all that is in it is.
    """
    _, run, _ = _watch_in_its_layout(network, shape)
    order = list(run.times)
    return order[: order.index(name)]


def _watch_in_its_layout(network: nn.Module, shape: tuple[int, int, int]) -> tuple[Layout | None, _Run, object]:
    """Run the network in both memory layouts; return the one it needs, ``None`` where both do, and what was watched.

    A network that flattens with ``view`` fails where channels come last, one that permutes before it may fail where
    they do not; another might answer differently.
    """
    try:
        run, given = _watch(network, shape, torch.contiguous_format)
    except RequestError:
        try:
            return torch.channels_last, *_watch(network, shape, torch.channels_last)
        except RequestError:
            pass
        raise
    if any(weight.dim() == 5 for weight in network.parameters()):
        return torch.contiguous_format, run, given  # such weights cannot be asked to have their channels last
    try:
        again = tried(network, shape, torch.channels_last)
    except Exception:  # noqa: BLE001  # a network of somebody's may raise anything
        return torch.contiguous_format, run, given
    return None if _same(given, again) else torch.contiguous_format, run, given


def _watch(network: nn.Module, shape: tuple[int, int, int], layout: Layout) -> tuple[_Run, object]:
    """Run the network once, in evaluation mode, on two images of noise, and leave it as it was."""
    run = _Run(shape)
    hooks = [module.register_forward_hook(partial(run.note, name)) for name, module in network.named_modules()]
    try:
        return run, tried(network, shape, layout)
    except Exception as error:  # a network of somebody's may raise anything
        size = "×".join(map(str, shape))
        raise RequestError(
            f"the model cannot take an image of {size} (channels, height, width): {reason_of(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _in_training(
    network: nn.Module,
    shape: tuple[int, int, int],
    head: str,
    evaluated: object,
    reading: Reading | None,
    layout: Layout | None,
) -> Reading | None:
    """Return how logits are read in training mode, where ``reading`` is how they are from what was ``evaluated``.

    Of further entries, the logits are those called so, or what the head gives.
    """
    led: list[Tensor] = []
    hook = network.get_submodule(head).register_forward_hook(lambda _, __, output: led.append(output))
    try:
        given = tried(network, shape, layout, training=True)
    except Exception:  # noqa: BLE001  # a network of somebody's may raise anything; it is trained with more, perhaps
        return reading
    finally:
        hook.remove()
    if type(given) is type(evaluated):
        return reading
    undo = None if reading is None else reading.undo
    try:
        return replace(reading_of(given, None), undo=undo)
    except RequestError:
        places = enumerate(given) if isinstance(given, tuple | list) else ()
        found = (place for place, each in places if isinstance(each, Tensor) and led and _near(each, led[-1]))
        place = next(found, None)
        return reading if place is None else Reading(place, undo=undo)


def _led_by(
    network: nn.Module,
    run: _Run,
    name: str,
    change: Callable[[Tensor], Tensor],
    reading: Reading,
    layout: Layout | None,
) -> Tensor:
    """Return the logits where what a layer gives is changed."""
    hook = network.get_submodule(name).register_forward_hook(lambda _, __, output: change(output))
    try:
        return reading(tried(network, run.image, layout))
    finally:
        hook.remove()


def _find_head(network: nn.Module, run: _Run, logits: Tensor, named: str | None, led_by: _LedBy) -> tuple[str, bool]:
    """Return the head, and whether its output is the logits themselves."""
    able = [name for name in run.times if name in run.linear or name in run.mapping]
    if named is not None and named not in able:
        known = ", ".join(run.linear) or "none does"
        raise RequestError(f"head '{named}' is no linear layer of the model that runs; these do: {known}")
    for name in reversed(able) if named is None else [named]:
        if run.times[name] != 1 or units(network.get_submodule(name)) != logits.shape[1]:
            continue
        output = run.linear.get(name)
        if output is not None and (output is logits or _near(output, logits)):
            return name, True
        if _decides(partial(led_by, name), 1 if output is None else -1):
            return name, False
    if named is None and not run.linear:
        raise RequestError(
            "the model has no head: no linear layer (torch.nn.Linear) ran, and no convolution gives a map per class"
        )
    name = named if named is not None else list(run.linear)[-1]
    if run.times[name] != 1:
        raise RequestError(f"linear layer '{name}' cannot be the head: it runs {run.times[name]} times")
    raise RequestError(f"linear layer '{name}' cannot be the head: its output is not the model's output, the logits")


def _decides(led: _Led, axis: int) -> bool:
    """Tell whether logits are made of what a layer gives on an ``axis``, each of its own unit and all in the same way.

    That is tried on noise: let the units change places, and the logits do.
    """

    def noise(output: Tensor) -> Tensor:
        return torch.randn(output.shape, generator=generator(0, "head")).to(output)

    try:
        first, second = led(noise), led(lambda output: noise(output).roll(1, axis))
    except Exception:  # noqa: BLE001  # a network of somebody's may raise anything
        return False
    return _near(second, first.roll(1, 1)) and (first.is_meta or first.shape[1] == 1 or not _near(second, first))


def _undone(led: _Led, probabilities: bool) -> Ending | None:
    """Return what is undone to read logits from the outputs; :class:`RequestError` where that was not asked for."""
    ending = ending_of(led)
    if ending == "log_softmax":
        log.info("the model gives the logarithms of probabilities, which serve as logits")
        return None
    if probabilities and ending is None:
        raise RequestError("probabilities=True: the model gives logits; there is no softmax or sigmoid to undo")
    if ending is not None and not probabilities:
        raise RequestError(
            f"the model gives probabilities, as it ends in a {ending}, and no logits: wrap it without the {ending}, or "
            "say probabilities=True to have that undone"
        )
    return ending


def _same(first: object, second: object) -> bool:
    """Tell whether all tensors in two outputs are the same but for rounding."""
    pairs = _tensors(first), _tensors(second)
    return len(pairs[0]) == len(pairs[1]) and all(map(_near, *pairs))


def _tensors(given: object) -> list[Tensor]:
    if isinstance(given, Tensor):
        return [given]
    if isinstance(given, tuple | list):
        inner: Iterable[object] = given
    else:
        inner = given.values() if isinstance(given, dict) else getattr(given, "__dict__", {}).values()
    return [tensor for each in inner for tensor in _tensors(each)]


def _near(first: Tensor, second: Tensor) -> bool:
    """Tell whether two tensors are the same but for rounding; on the meta device there are no values to compare."""
    if first.shape != second.shape:
        return False
    if first.is_meta:
        return True
    first, second = first.float(), second.float()
    largest = float(first.abs().max()) if first.numel() else 0.0
    return torch.allclose(first, second, 1e-3, 1e-3 * largest if math.isfinite(largest) else 1e-3, equal_nan=True)


def units(layer: nn.Module) -> int:
    """Return how many outputs a linear layer or a convolution has."""
    # Not by its weights: asking for spectrally normalised ones changes their estimate while the mode is training.
    return int(layer.out_features if isinstance(layer, nn.Linear) else cast(nn.Conv2d, layer).out_channels)


def _find_stages(network: nn.Module, run: _Run, head: str) -> tuple[str, ...]:
    order = list(run.shapes)
    order = order[: order.index(head)]
    way: list[str] = []
    for name in sorted(set(_way(network, "", run, head)).intersection(order), key=order.index):
        if run.shapes[name][2:] == (1, 1) and not _has_weights(network, name):
            break
        if not isinstance(network.get_submodule(name), _PASSIVE):
            way.append(name)
    groups = [list(group) for _, group in groupby(way, key=run.shapes.__getitem__)]
    stages = [group[-1] for group in groups if any(_has_weights(network, name) for name in group)]
    after = order[order.index(stages[-1]) :] if stages else []
    goes_on = any(len(run.shapes[name]) > 2 and not run.has_proportions(run.shapes[name]) for name in after)
    return () if goes_on else tuple(stages)


def _way(module: nn.Module, name: str, run: _Run, head: str) -> list[str]:
    """Return the modules inside ``module`` whose outputs lie on the way to the head."""
    found = []
    for key, child in module.named_children():
        inner = f"{name}.{key}" if name else key
        maps = _way(child, inner, run, head)
        opened = f"{head}.".startswith(f"{inner}.") or len({run.shapes[part][2:] for part in maps}) > 2
        found += maps if opened or not run.is_map(inner) else [inner]
    return found


def _has_weights(network: nn.Module, name: str) -> bool:
    return next(network.get_submodule(name).parameters(), None) is not None
