"""Filters of inputs and of training sets: over the passes that they need, one image at a time, and beside ART's."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import Row, paired, spread
from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images, to_levels
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.views import SuspectDataView
from gifthorse.defenses.filtering.neo import Neo, Search
from gifthorse.defenses.training_set_filtering.activation_clustering import ActivationClustering
from gifthorse.defenses.training_set_filtering.spectral_signatures import Signatures, SpectralSignatures
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.suspects import suspect_latents
from gifthorse.models.resnet import ResNet18
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.scratch import train

CLASSES, SUSPECT, INPUTS = 10, 10_000, 64


def measure() -> list[Row]:
    cell = resolve(dataset="digits", attack="badnets", profile="laptop")
    splits = cell.dataset.load(Path("unused"))
    task = Task(**vars(splits), architecture=cell.model, recipe=cell.training)
    trojan = cell.attack.run(task, train(task, 0), 0)
    assert trojan.backdoor is not None
    half = task.test.take(slice(INPUTS // 2))
    stamped, _ = trojan.backdoor.stamp(half.floats(), half.labels)
    inputs = torch.cat([half.floats(), stamped])
    narrow = ResNet18(width=16, blocks=(1, 1, 1, 1)).build((3, 32, 32), CLASSES, 0).eval()
    noise = torch.rand(116, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return [
        *_neo("badnets on digits, half stamped", trojan.model, task.holdout.floats()[:100], inputs, Neo()),
        *_neo("resnet18[width=16], 32×32", narrow, noise[:100], noise[100:], Neo(positions=200)),
        *_training_sets(task.train),
    ]


class Counting(nn.Module):
    """Counts the images that a model is shown."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.images += len(pixels)
        logits: Tensor = self.model(pixels)
        return logits


def _neo(label: str, model: Classifier, clean: Tensor, inputs: Tensor, settings: Neo) -> list[Row]:
    frozen = freeze(model)
    clean, inputs = (each.contiguous(memory_format=torch.channels_last) for each in (clean, inputs))
    search, counting = Search(settings, frozen, clean, 0), Counting(frozen)
    search.model = counting
    search.find(inputs)
    search.model = frozen
    batches, batch = -(-counting.images // 64), inputs[:1].expand(64, -1, -1, -1).clone()

    @torch.inference_mode()
    def passes() -> None:
        for _ in range(batches):
            frozen(batch)

    floor = paired(lambda: search.find(inputs), passes, 3)
    few = inputs[:: len(inputs) // 4]
    alone = paired(lambda: search.find(few), lambda: _one_at_a_time(search, model, clean, few), 3)
    each = floor.ours / len(inputs) * 1e3
    how = f"{len(inputs)} inputs, {counting.images} images in passes, {each:.1f} ms an input"
    plain = f"{len(few)} inputs: {alone.ours:.2f} s and {alone.plain:.2f} s"
    return [
        (f"NEO over its passes alone, {label}", f"{floor.slower()}×", "≤ 1.15", how),
        (f"NEO, {label}", f"{alone.faster('.1f')}× one image at a time", "≥ 5", plain),
    ]


def _one_at_a_time(search: Search, model: Classifier, clean_images: Tensor, pixels: Tensor) -> None:
    """A pass for every position, and two for every clean image that a hidden part is pasted on, as TrojanZoo's code."""
    from sklearn.cluster import KMeans

    size = search.settings.blocker_size
    with torch.no_grad():
        for one in pixels.split(1):
            found = KMeans(search.settings.colours, random_state=0, n_init=1).fit(one[0].flatten(1).T.numpy())
            colour = torch.from_numpy(found.cluster_centers_[np.bincount(found.labels_).argmax()])
            label = int(model(one).argmax())
            for top, left in search.places.tolist():
                part = (slice(None), slice(None), slice(top, top + size), slice(left, left + size))
                blocked = one.clone()
                blocked[part] = colour.view(1, -1, 1, 1)
                if int(model(blocked).argmax()) == label:
                    continue
                for clean in clean_images.split(1):
                    pasted = clean.clone()
                    pasted[part] = one[part]
                    _ = int(model(pasted).argmax()) != int(model(clean).argmax())


class Untrained:
    """Hands back the same model: training anew is not what is timed."""

    architecture, recipe = SmallCnn(), StandardRecipe()

    def __init__(self, model: Classifier):
        self.model = model

    def train(self, images: Images, seed: int) -> Classifier:  # noqa: ARG002
        return self.model


def _training_sets(digits: Images) -> list[Row]:
    """Enlarged digits with some noise, as many as are wanted, and a network that was trained on nothing."""
    model = SmallCnn().build((1, 28, 28), CLASSES, 0).eval()
    drawn = digits.take(torch.arange(SUSPECT) % len(digits))
    noise = 0.1 * torch.randn(SUSPECT, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    pixels = to_levels((torch.nn.functional.interpolate(drawn.floats(), (28, 28)) + noise).clamp(0, 1))
    images = Images(pixels, drawn.labels, CLASSES)
    view = SuspectDataView(model, images, trainer=Untrained(model))
    clustering, signatures = ActivationClustering(), SpectralSignatures()
    latents, labels = suspect_latents(view), images.labels

    def cluster() -> None:
        clustering.cluster(latents, labels, CLASSES, 0).place(latents, labels)

    def project() -> None:
        scores = Signatures(latents, labels, CLASSES).score(latents, labels)
        for label in range(CLASSES):
            signatures.highest(scores[labels == label])

    rows: list[Row] = []
    for defense, ours, theirs in ((clustering, cluster, _art_clustering), (signatures, project, _art_signatures)):
        whole = paired(lambda: defense.defend(view, 0), lambda: suspect_latents(view), 3)  # noqa: B023
        outside = spread((max(all_of_it - one_pass, 0) / all_of_it for all_of_it, one_pass in whole.rounds), ".1%")
        how = f"{SUSPECT} images of 28×28, small_cnn: {whole.ours:.2f} s without training anew"
        rows.append((f"{defense.name}: outside the pass over the images", outside, "≤ 20%", how))
        beside = paired(ours, theirs(latents, labels), 3)
        how = f"the same {SUSPECT} × {latents.shape[1]} latents: {beside.ours:.3f} s and {beside.plain:.3f} s"
        rows.append((f"{defense.name} on latents", f"{beside.faster('.1f')}× ART's", "", how))
    return rows


def _art(latents: Tensor) -> object:
    """A classifier of ART's whose last layer is the latents that it is given."""
    from art.estimators.classification import PyTorchClassifier

    as_it_is = nn.Sequential(nn.Identity())
    return PyTorchClassifier(as_it_is, nn.CrossEntropyLoss(), (latents.shape[1],), CLASSES, device_type="cpu")


def _art_clustering(latents: Tensor, labels: Tensor):  # type: ignore[no-untyped-def]
    from art.defences.detector.poison import ActivationDefence

    known = torch.nn.functional.one_hot(labels, CLASSES).numpy()
    return lambda: ActivationDefence(_art(latents), latents.numpy(), known).detect_poison(
        nb_clusters=2, nb_dims=10, reduce="PCA", cluster_analysis="silhouette-scores"
    )


def _art_signatures(latents: Tensor, labels: Tensor):  # type: ignore[no-untyped-def]
    from art.defences.detector.poison import SpectralSignatureDefense

    known = torch.nn.functional.one_hot(labels, CLASSES).numpy()
    return lambda: SpectralSignatureDefense(
        _art(latents), latents.numpy(), known, expected_pp_poison=0.1
    ).detect_poison()
