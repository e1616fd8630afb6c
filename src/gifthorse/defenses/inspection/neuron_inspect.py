"""NeuronInspect: what explains a planted target's output on clean images is sparser, smoother and more alike.

Paper: Huang et al. 2019, arXiv:1911.07399; TrojanZoo section 4.3, Table 21 (weights 1e-5, 1e-5, 1; sample ratio 0.1).
Differs: heat maps are of clean images alone, as in the paper; TrojanZoo's code stamps the attacker's own trigger on
    them. They are raw gradients of the logit, not scaled to [0,1] image by image: that would make all maps equally
    strong. A pixel counts as explaining where it is above its map's own median: with Table 21's threshold of 0 nearly
    every pixel does (``threshold=0``). Persistence compares each map with the next one's, in random order: the XOR over
    all images is half of the pixels for any class. The Laplacian goes on past the border with the border's values.
    Sparseness and smoothness are medians over images, persistence is the mean over pairs. Each feature's own index is
    read out beside that of the sum.
"""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from gifthorse.core.anomaly import anomaly_indices, median
from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.core.views import ModelView
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.inspector import Inspector

LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
LARGEST = 2**25
"""Values in the heat maps of one batch: many classes of large images would not fit in memory."""


class NeuronInspect(Inspector):
    """Measures each class's heat maps on clean images and flags a class whose features are abnormally small."""

    name = "neuron_inspect"
    aliases = ("ni", "neuroninspect")
    paper = "Huang et al. 2019, arXiv:1911.07399"
    variants = ("neuron_inspect[threshold=0.0]",)

    sparseness: float = Field(1e-5, ge=0, description="λ_sp: weight of the heat maps' L1 norm")
    smoothness: float = Field(1e-5, ge=0, description="λ_sm: weight of the L1 norm of their Laplacian")
    persistence: float = Field(
        1.0, ge=0, description="λ_pe: weight of the number of pixels that two images disagree on"
    )
    threshold: float | None = Field(
        None, ge=0, description="heat above which a pixel explains the output; null: the map's own median"
    )
    samples: int | None = Field(None, ge=2, description="clean images to explain, drawn at random; null: all there are")
    anomaly_threshold: float = Field(2.0, gt=0, description="anomaly index above which a class is suspect")

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:
        """Explain every class on every image, then look for the outlier."""
        order = torch.randperm(len(view.clean), generator=generator(seed, self.name))[: self.samples]
        features = self.features(view.model, view.clean.take(order.to(view.device)))
        weights = torch.tensor([self.sparseness, self.smoothness, self.persistence], device=view.device)
        scores = -(weights @ features)
        indices, alone = anomaly_indices(scores), anomaly_indices(-features).amax(1)
        suspect = int(indices.argmax()) if indices.max() > self.anomaly_threshold else None
        names = ("sparseness", "smoothness", "persistence")
        return ModelVerdict(scores, suspect, readouts=dict(zip(names, alone.tolist(), strict=True)))

    def features(self, model: Classifier, images: Images) -> Tensor:
        """Return sparseness, smoothness (medians over images) and persistence (mean over pairs) ``(3, K)``."""
        sizes, roughnesses, changes = [], [], []
        last = None
        for maps in heat_maps(model, images):
            sizes.append(maps.sum((2, 3)))
            roughnesses.append(laplacian(maps).abs().sum((2, 3)))
            explaining = self.explaining(maps)
            line = explaining if last is None else torch.cat([last, explaining])
            changes.append((line[1:] ^ line[:-1]).sum((2, 3)).float())
            last = explaining[-1:]
        # Medians of whole numbers would often be equal: a MAD next to nothing, and an index without meaning.
        persistence = torch.cat(changes).mean(0)
        return torch.stack([*(median(torch.cat(parts).T) for parts in (sizes, roughnesses)), persistence])

    def explaining(self, maps: Tensor) -> Tensor:
        """Say which pixels of heat maps ``(N, K, H, W)`` are above the threshold."""
        if self.threshold is not None:
            return maps > self.threshold
        return maps > median(maps.flatten(2))[..., None, None]


def heat_maps(model: Classifier, images: Images) -> Iterator[Tensor]:
    """Yield ``|∂ logit / ∂ pixel| (N, K, H, W)``, the largest over colours, batch by batch: one forward pass each."""
    frozen, (_, height, width) = freeze(model), images.shape
    size = min(inference_batch(images.device), 512, max(LARGEST // (model.classes * height * width), 1))
    for pixels, _ in track(images.batches(size), "heat maps", -(-len(images) // size)):
        pixels.requires_grad_()
        outputs = frozen(pixels).sum(0)
        yield torch.stack(
            [
                torch.autograd.grad(outputs[label], pixels, retain_graph=label < len(outputs) - 1)[0].abs().amax(1)
                for label in range(len(outputs))
            ],
            1,
        )


def laplacian(maps: Tensor) -> Tensor:
    """Filter ``(N, K, H, W)`` with the Laplacian, the border repeated."""
    kernel = torch.tensor(LAPLACIAN, device=maps.device).expand(maps.shape[1], 1, 3, 3)
    return functional.conv2d(functional.pad(maps, (1, 1, 1, 1), "replicate"), kernel, groups=maps.shape[1])
