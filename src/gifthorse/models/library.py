"""Any classifier of torchvision or timm by the name it has there: ``torchvision/resnet50``, ``timm/resnet10t``.

Weights are random unless a file of them is named; nothing is fetched. Head and stages are found as in a user's own
network.
"""

import difflib
import logging
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from gifthorse.checkpoints.matching import start_weights
from gifthorse.checkpoints.reading import read_state_dict
from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import isolated

log = logging.getLogger("gifthorse")

Stamp = tuple[int, ...]


class LibraryArchitecture(Architecture):
    """A network of somebody's library, with random weights or those of a file."""

    slash_field = "arch"
    channels: ClassVar[int | None] = None
    """What the network takes, whatever the images have; ``None``: theirs."""

    arch: str
    weights: str | None = Field(
        None,
        description="file of weights to start training from, as training code wrote them or a benign model of the "
        "store; a head for other classes is left out",
    )
    entry: str | None = Field(
        None,
        description="entry of that file to take where it holds several networks, as 'model_ema' or "
        "'checkpoint.state_dict'",
    )
    prefix: str | None = Field(
        None,
        description="take only the tensors of that file whose names begin so, without it, as 'module.encoder_q.'; "
        "one that makes everything fit is taken off unasked",
    )

    @model_validator(mode="after")
    def _names_a_file(self) -> Self:
        for name in ("entry", "prefix"):
            if self.weights is None and getattr(self, name) is not None:
                raise ValueError(f"{name} says what to take of a file: name it with weights=")
        return self

    def files(self) -> tuple[Path, ...]:
        """Return the file of weights, if one is named."""
        return () if self.weights is None else (Path(self.weights).expanduser(),)

    def check(self, shape: tuple[int, int, int], classes: int) -> None:
        """Refuse weights that do not fit, and say that these are trained on."""
        for stamp in self._stamps():
            _check(self, shape, classes, stamp)

    def _stamps(self) -> list[Stamp]:
        """Return what tells that the file of weights is another one than before, if one is named."""
        found = [path.stat() if path.is_file() else None for path in self.files()]
        return [() if about is None else (about.st_ino, about.st_size, about.st_mtime_ns) for about in found]

    def _wrapped(self, make: Callable[[], nn.Module], shape: tuple[int, int, int], seed: int) -> Classifier:
        try:
            with isolated(seed, "initialise"):
                network = make()
            channels = self.channels or shape[0]
            seen = (channels, *shape[1:])
            model = Classifier.wrap(network, [0.5] * channels, [0.25] * channels, example_shape=seen)
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RequestError(f"{self}: {reason}") from error
        if not model.head.weight.is_meta:
            for stamp in self._stamps():
                given = _start_weights(self, shape, model.classes, stamp)
                model.load_state_dict({**model.state_dict(), **given})
        return model


class Torchvision(LibraryArchitecture):
    """Any classifier of torchvision by its name there: torchvision/resnet50.

    Grey images are shown to all three colour channels, so that the weights keep torchvision's shapes.
    """

    name = "torchvision"
    channels = 3
    parameters = 11_181_642

    arch: str = Field("resnet18", description="torchvision's name of the network")

    @field_validator("arch")
    @classmethod
    def _is_listed(cls, arch: str) -> str:
        from torchvision import models

        return _listed(arch, models.list_models(module=models), cls.name)

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier; :class:`RequestError` where it cannot take images of this shape."""
        from torchvision.models import get_model

        options: dict[str, Any] = {}
        if self.arch.startswith("vit_"):
            options = {"image_size": shape[1]}
        elif self.arch.startswith("maxvit"):
            options = {"input_size": shape[1:]}
        elif self.arch in ("googlenet", "inception_v3"):
            # Their second head would change what the network returns while it is trained.
            options = {"aux_logits": False, "init_weights": True}

        def make() -> nn.Module:
            network: nn.Module = get_model(self.arch, weights=None, num_classes=classes, **options)
            return network

        return self._wrapped(make, shape, seed)


class Timm(LibraryArchitecture):
    """Any classifier of timm by its name there: timm/resnet10t; needs gifthorse[models]."""

    name = "timm"
    parameters = 4_927_618

    arch: str = Field("resnet10t", description="timm's name of the network")
    img_size: int | None = Field(
        None, ge=1, description="timm's argument of that name, for networks made for one size (transformers)"
    )
    patch_size: int | None = Field(
        None, ge=1, description="timm's argument of that name; 4 suits transformers for 32×32 images"
    )

    @field_validator("arch")
    @classmethod
    def _is_listed(cls, arch: str) -> str:
        try:
            import timm
        except ImportError:
            # A configuration can be read, compared and printed where the package is missing; it cannot be built.
            return arch
        return arch if timm.is_model(arch) else _listed(arch, timm.list_models(), cls.name)

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier; :class:`RequestError` without timm or for an unfit shape."""
        try:
            import timm
        except ImportError:
            raise RequestError(f"{self} needs the package timm: pip install 'gifthorse[models]'") from None
        given = {"img_size": self.img_size, "patch_size": self.patch_size}
        options = {name: value for name, value in given.items() if value is not None}

        def make() -> nn.Module:
            network: nn.Module = timm.create_model(
                self.arch, pretrained=False, num_classes=classes, in_chans=shape[0], **options
            )
            return network

        return self._wrapped(make, shape, seed)


def _listed(arch: str, names: Iterable[str], library: str) -> str:
    known = list(names)
    if arch in known:
        return arch
    nearest = difflib.get_close_matches(arch, known, n=1, cutoff=0.0)
    raise ValueError(f"{library} has no such classifier" + (f"; did you mean '{nearest[0]}'?" if nearest else ""))


@lru_cache(maxsize=1)
def _start_weights(
    architecture: LibraryArchitecture, shape: tuple[int, int, int], classes: int, _: Stamp
) -> dict[str, Tensor]:
    """Return the weights that training starts from: a run builds the network often, and reads the file once."""
    (path,) = architecture.files()
    with torch.device("meta"):
        model = architecture.build(shape, classes, 0)
    state = read_state_dict(path, entry=architecture.entry)
    try:
        return start_weights(model, state, prefix=architecture.prefix)
    except RequestError as error:
        raise RequestError(f"{architecture}: {error}") from None


@lru_cache(maxsize=256)
def _check(
    architecture: LibraryArchitecture, shape: tuple[int, int, int], classes: int, stamp: tuple[int, int]
) -> None:
    _start_weights(architecture, shape, classes, stamp)
    log.warning(
        "%s: training goes on from these weights, and what is judged is the trained copy; "
        "'gifthorse scan' judges a model as it was delivered",
        architecture.weights,
    )
