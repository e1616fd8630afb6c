"""What somebody hands over: a file with a model and some images, read as they are. Nothing is trained on either."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gifthorse.bench.cell import resolve
from gifthorse.checkpoints.matching import classes_of, load_delivered
from gifthorse.checkpoints.onnx_graph import is_onnx
from gifthorse.checkpoints.onnx_model import OnnxModel
from gifthorse.checkpoints.reading import read_state_dict
from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier, Normalise, predict
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.scan import BARELY_WORKS, hardly_works
from gifthorse.core.seeds import generator
from gifthorse.datasets.folder import Folder
from gifthorse.datasets.splits import load_splits
from gifthorse.datasets.tree import image_paths
from gifthorse.models.library import LibraryArchitecture, Torchvision

MOST_IMAGES = 5000
"""No more images are looked at: an inspector uses a few hundred, and accuracy is known to a percent."""
COMPARED = 200
"""Images on which normalisations are compared."""
ONNX = b"\x08"
"""The first byte of an ONNX model: its version comes first."""

Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation by channel, of pixels in [0,1]."""

_KNOWN: dict[int, dict[str, Normalisation]] = {
    3: {
        "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    },
    1: {"MNIST's": ((0.1307,), (0.3081,))},
}


@dataclass(frozen=True)
class Delivery:
    """What was handed over, and how to read it.

    ``architecture`` is needed for all files but ONNX. The images are those of the folder ``data``, or those of a listed
    ``dataset`` that models are not trained on here. ``size`` is height and width, ``classes`` a file with a class name
    per line in the order of the model's outputs, ``entry`` and ``prefix`` say which part of the file are the weights.
    """

    model: Path
    architecture: str | None = None
    data: Path | None = None
    dataset: str | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: Path | None = None
    entry: str | None = None
    prefix: str | None = None


@dataclass(frozen=True, eq=False)
class Delivered:
    """The model in evaluation mode, the defender's images, and what was noticed while they were read.

    Images without labels have the model's own answers in their place.
    """

    model: Classifier | OnnxModel
    architecture: Architecture | None
    images: Images
    labelled: bool
    class_names: tuple[str, ...]
    accuracy: float | None
    digest: str
    """Of the content of the images' folder or data set."""
    remarks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Given:
    """Images as they were found: ``labels`` are places among ``names``, and absent where there are no class folders."""

    pixels: Tensor
    labels: Tensor | None
    names: tuple[str, ...]
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width


def read_delivery(asked: Delivery, data_root: Path, cache: Path, device: torch.device) -> Delivered:
    """Read a model and images; :class:`RequestError`, one sentence, where either cannot be read or they do not fit.

    Decoded images of a folder are kept in ``cache``, never beside the user's own.
    """
    if (asked.data is None) == (asked.dataset is None):
        raise RequestError("say where the images are: --data FOLDER or --dataset NAME, one of them")
    if (asked.mean is None) != (asked.std is None):
        raise RequestError("say both or neither of --mean and --std")
    if asked.std is not None and min(asked.std) <= 0:
        raise RequestError("--std: a standard deviation is above 0")
    if not asked.model.is_file():
        raise RequestError(f"there is no model at {asked.model}")
    if _is_onnx(asked.model):
        return _read_black_box(asked, data_root, cache, device)
    if asked.architecture is None:
        raise RequestError(
            f"{asked.model} holds weights and no network: say which they are of, as --model torchvision/resnet18 "
            "('gifthorse list models' shows what there is)"
        )
    architecture = resolve(dataset="digits", model=asked.architecture).model
    with _noted() as remarks:
        state = read_state_dict(asked.model, entry=asked.entry)
        channels = _channels(asked.model, state)
        given = _images(asked, channels, data_root, cache)
    if channels not in (None, given.shape[0]) and not isinstance(architecture, Torchvision):
        raise RequestError(
            f"{asked.model} is of a network for images of {channels} channels, and these have {given.shape[0]}: "
            "give --data FOLDER, whose images are read as the network needs them"
        )
    names, labels = _classes(asked, given, classes_of(state, prefix=asked.prefix))
    model = architecture.build(given.shape, len(names), 0)
    with _noted() as said:
        load_delivered(model, state, prefix=asked.prefix)
    carried = asked.mean is None and any(name.endswith("normalise.mean") for name in state)
    del state
    model = model.eval().to(device).requires_grad_(False)
    images = _some(given, labels, len(names)).to(device)
    remarks += said
    if not carried:
        remarks += _normalise(asked, model, architecture, images if labels is not None else None)
    return _judged(asked, model, architecture, images, labels is not None, names, given.digest, tuple(remarks))


def _read_black_box(asked: Delivery, data_root: Path, cache: Path, device: torch.device) -> Delivered:
    architecture = None if asked.architecture is None else resolve(dataset="digits", model=asked.architecture).model
    given = None
    try:
        model = OnnxModel(asked.model, mean=asked.mean, std=asked.std)
    except RequestError:
        # It may leave the size of its images open: then theirs decides.
        given = _images(asked, 3, data_root, cache)
        model = OnnxModel(asked.model, mean=asked.mean, std=asked.std, shape=given.shape)
    if given is None:
        channels, height, width = model.shape
        if asked.size not in (None, (height, width)):
            raise RequestError(f"{asked.model} is for images of {height}×{width}, not of --size {asked.size}")
        given = _images(replace(asked, size=(height, width)), channels, data_root, cache)
    names, labels = _classes(asked, given, model.classes)
    images = _some(given, labels, len(names)).to(device)
    remarks = ["an ONNX model is a black box without gradients: most inspectors cannot look inside"]
    if asked.mean is None:
        remarks.append("the model was shown pixels in [0,1]: say --mean and --std if it does not normalise by itself")
    return _judged(asked, model, architecture, images, labels is not None, names, given.digest, tuple(remarks))


def _judged(
    asked: Delivery,
    model: Classifier | OnnxModel,
    architecture: Architecture | None,
    images: Images,
    labelled: bool,
    names: tuple[str, ...],
    digest: str,
    remarks: tuple[str, ...],
) -> Delivered:
    logits = predict(model, images)
    if not logits.isfinite().all():
        raise RequestError(f"{asked.model}: the model's outputs on these images are not finite numbers")
    answers = logits.argmax(1)
    accuracy = float((answers == images.labels).float().mean()) if labelled else None
    if not labelled:
        images = replace(images, labels=answers)
        remarks += ("the images have no labels: each counts as of the class that the model gives it",)
    if accuracy is not None and hardly_works(accuracy, len(names)):
        said = (
            f"{BARELY_WORKS} ({accuracy:.3f}): class order (--classes), normalisation (--mean, --std) or size may be "
            "others than the model was trained with"
        )
        remarks += (said,)
    return Delivered(model, architecture, images, labelled, names, accuracy, digest, remarks)


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Collect what is logged meanwhile, for the document: what was left out or taken off is part of the answer."""
    log, lines = logging.getLogger("gifthorse"), list[str]()
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    before = log.handlers, log.level, log.propagate
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.handlers, log.level, log.propagate = before


def _is_onnx(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(1) != ONNX:
            return False
        file.seek(0)
        return is_onnx(file.read())


def _channels(path: Path, state: Mapping[str, Tensor]) -> int | None:
    """Return how many channels the first convolution of a state dict takes; ``None`` where there is none."""
    channels = next((tensor.shape[1] for tensor in state.values() if tensor.ndim == 4), None)
    if channels not in (None, 1, 3):
        raise RequestError(f"{path} is of a network for images of {channels} channels; grey and colour images are read")
    return channels


def _images(asked: Delivery, channels: int | None, data_root: Path, cache: Path) -> _Given:
    """Return all images that were given, none of them set aside; those of a folder in colour unless told otherwise."""
    if asked.data is not None:
        if not asked.data.expanduser().is_dir():
            raise RequestError(f"--data {asked.data}: there is no such folder")
        path = asked.data.expanduser().resolve()
        size = _size(asked, path)
        return _of_folder(Folder.from_dict({"path": str(path), "size": size, "channels": channels or 3}), cache)
    assert asked.dataset is not None
    dataset = resolve(dataset=asked.dataset).dataset
    if isinstance(dataset, Folder):
        return _of_folder(dataset, data_root)
    splits = load_splits(dataset, data_root, download=False)
    unseen = splits.holdout.join(splits.test)
    return _Given(unseen.pixels, unseen.labels, splits.class_names, dataset.digest(data_root))


def _of_folder(folder: Folder, root: Path) -> _Given:
    given = folder.given(root)
    return _Given(given.pixels, given.labels, given.class_names, folder.digest(root))


def _size(asked: Delivery, folder: Path) -> int | tuple[int, int]:
    """Return the size that the images are brought to: the one asked for, or their own where they have one."""
    if asked.size is not None:
        return asked.size
    sizes = {size for path in image_paths(folder, (folder,)) if (size := _size_of(path)) is not None}
    if len(sizes) > 1:
        least, most = (("{1}×{0}".format(*size)) for size in (min(sizes), max(sizes)))
        raise RequestError(
            f"the images in {folder} are of {len(sizes)} sizes, {least} to {most} among them: say which the model was "
            "trained on, as --size 224"
        )
    width, height = sizes.pop() if sizes else (64, 64)
    return height, width


def _size_of(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None  # reading it says what is wrong


def _classes(asked: Delivery, given: _Given, outputs: int | None) -> tuple[tuple[str, ...], Tensor | None]:
    """Return the class names in the order of the model's outputs, and the images' labels in that order."""
    if asked.classes is not None:
        return _named_classes(asked.classes, given, outputs)
    if given.labels is None:
        if outputs is None:
            raise RequestError(f"how many classes {asked.model} knows cannot be told: say their names with --classes")
        return tuple(map(str, range(outputs))), None
    if outputs is not None and outputs != len(given.names):
        raise RequestError(
            f"{asked.model} is for {outputs} classes, the images are of {len(given.names)} "
            f"({', '.join(given.names[:5])}{', …' if len(given.names) > 5 else ''}): give a folder for each class, or "
            "--classes FILE with the names of all of them in the model's order"
        )
    return given.names, given.labels


def _named_classes(path: Path, given: _Given, outputs: int | None) -> tuple[tuple[str, ...], Tensor | None]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--classes {path} cannot be read: {error}") from None
    if len(set(names)) < len(names) or len(names) < 2:
        raise RequestError(f"--classes {path}: there should be a name per line, two or more, each once")
    if outputs is not None and len(names) != outputs:
        raise RequestError(f"--classes {path} names {len(names)} classes; the model knows {outputs}")
    if given.labels is None:
        return names, None
    places = {name: place for place, name in enumerate(names)}
    unknown = [name for name in given.names if name not in places]
    if unknown:
        raise RequestError(f"--classes {path} does not name the class folder '{unknown[0]}'")
    return names, torch.tensor([places[name] for name in given.names])[given.labels]


def _some(given: _Given, labels: Tensor | None, classes: int) -> Images:
    """Return all images, or so many of them drawn once and for all; without labels, class 0 holds the place."""
    images = Images(given.pixels, torch.zeros(len(given.pixels)).long() if labels is None else labels, classes)
    if len(images) <= MOST_IMAGES:
        return images
    return images.take(torch.randperm(len(images), generator=generator(0, "scan", "images"))[:MOST_IMAGES])


def _normalise(
    asked: Delivery, model: Classifier, architecture: Architecture, labelled: Images | None
) -> tuple[str, ...]:
    """Give the model its normalisation: the one said, or the known one that it is most accurate with."""
    channels = model.normalise.mean.numel()
    if asked.mean is not None and asked.std is not None:
        for option, values in (("--mean", asked.mean), ("--std", asked.std)):
            if len(values) not in (1, channels):
                raise RequestError(f"{option} has {len(values)} numbers; the network takes {channels} channels")
        _show_as(model, (asked.mean, asked.std))
        return ()
    own = model.normalise.mean.flatten().tolist(), model.normalise.std.flatten().tolist()
    known = _KNOWN.get(channels, {}) | {"no normalisation": ([0.0], [1.0]), "0.5 and 0.5": ([0.5], [0.5])}
    candidates = {"gifthorse's own": own, **known}
    if isinstance(architecture, LibraryArchitecture):
        candidates = {**known, "gifthorse's own": own}
    if labelled is None:
        name, chosen = next(iter(candidates.items()))
        _show_as(model, chosen)
        return (f"no --mean and --std, and no labels to tell by: the images were shown with {name} normalisation",)
    accuracies: dict[str, float] = {}
    for name, candidate in candidates.items():
        _show_as(model, candidate)
        compared = labelled.take(slice(COMPARED))
        accuracies[name] = float((predict(model, compared).argmax(1) == compared.labels).float().mean())
    best = max(accuracies, key=accuracies.__getitem__)
    _show_as(model, candidates[best])
    others = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in accuracies.items() if name != best)
    said = f"{best} was taken, with which the model is most accurate ({accuracies[best]:.3f}; {others})"
    return (f"no --mean and --std: of the usual ones {said}",)


def _show_as(model: Classifier, normalisation: Normalisation) -> None:
    channels = model.normalise.mean.numel()
    mean, std = (list(values) if len(values) == channels else list(values) * channels for values in normalisation)
    model.normalise = Normalise(mean, std).to(model.device)
