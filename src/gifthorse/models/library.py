"""Any classifier of torchvision or timm by the name it has there: ``torchvision/resnet50``, ``timm/resnet10t``.

Weights are random unless a file of them is named; nothing is fetched. Head and stages are found as in a user's own
network.
"""

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from torch import nn

from gifthorse.checkpoints.matching import load_into
from gifthorse.checkpoints.reading import read_state_dict
from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import isolated

OURS = "network."
"""What comes before the names of a network's weights where a :class:`Classifier` was saved, as in the store."""


class LibraryArchitecture(Architecture):
    """A network of somebody's library, with random weights or those of a file."""

    slash_field = "arch"

    arch: str
    weights: str | None = Field(
        None,
        description="file of weights to start training from, as the library wrote them or a benign model of the store; "
        "a head for other classes is left out",
    )

    def files(self) -> tuple[Path, ...]:
        """Return the file of weights, if one is named."""
        return () if self.weights is None else (Path(self.weights).expanduser(),)

    def _wrapped(self, make: Callable[[], nn.Module], shape: tuple[int, int, int], seed: int) -> Classifier:
        try:
            with isolated(seed, "initialise"):
                network = make()
            half = [0.5] * shape[0]
            model = Classifier.wrap(network, half, [0.25] * shape[0], example_shape=shape)
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RequestError(f"{self}: {reason}") from error
        for path in self.files():
            _start_from(model, path)
        return model


class Torchvision(LibraryArchitecture):
    """Any classifier of torchvision by its name there: torchvision/resnet50.

    Grey images are shown to all three colour channels, so that the weights keep torchvision's shapes.
    """

    name = "torchvision"
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

        return self._wrapped(make, (3, *shape[1:]), seed)


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


def _start_from(model: Classifier, path: Path) -> None:
    """Give a model the weights of a checkpoint; its head keeps its own where the checkpoint's has another shape."""
    own = model.network.state_dict()
    if any(weight.is_meta for weight in own.values()):
        return
    given = read_state_dict(path)
    inner = {name.removeprefix(OURS): weight for name, weight in given.items() if name.startswith(OURS)}
    given = inner or given
    head = {name: weight for name, weight in own.items() if name.startswith(f"{model.head_name}.")}
    other = any(name in given and given[name].shape != weight.shape for name, weight in head.items())
    load_into(model.network, {**given, **head} if other else given)
