"""DeepInspect: a conditional generator learns a perturbation for every class; a planted target's is abnormally small.

Paper: Chen et al. 2019, IJCAI, section 3; TrojanZoo section 4.3 and Table 21 (noise 100, Adam 0.01, 20 epochs a label).
Differs: no images are recovered by model inversion; the defender's clean ones are used, as TrojanZoo does. There is no
    discriminator: TrojanZoo's weight for it is 0. The layers of the generator are TrojanZoo's, but one generator serves
    all classes, as in the paper, and ends in tanh, so that its perturbation is added to an image, not put in its place
    (in TrojanZoo's code every trigger has the size of the image). Noise is drawn anew for every class and mini-batch;
    what is scored is the mean perturbation over fixed draws. Batch normalisation goes by the batch also then, always
    one draw of every class. Weight and threshold of a perturbation's size (its L1 norm, colours summed) are
    TrojanZoo's, the paper's were not at hand; the mask that is shown averages colours, so that its norm is that of
    other masks. The index is the one-sided one of all detectors, not that of a double MAD. A fifth of the clean images
    is held out. ``stride=2`` starts the generator at a quarter of the resolution, where full resolution needs too much
    memory.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict, RecoveredTriggers
from gifthorse.core.seeds import generator, isolated
from gifthorse.core.views import ModelView
from gifthorse.inversion.engine import Budget, Trial, TriggerSource, invert
from gifthorse.inversion.inspector import Inspector, hold_out, judge_by_size, with_success

READ_OUT = 16
"""Draws of noise that a class's perturbation is the mean of, once the generator is trained."""


class DeepInspect(Inspector):
    """Trains a generator of additive perturbations and flags a class that an abnormally small one reaches."""

    name = "deep_inspect"
    aliases = ("di", "deepinspect")
    paper = "Chen et al. 2019, IJCAI, doi:10.24963/ijcai.2019/647"
    variants = ("deep_inspect[stride=2]",)

    epochs: int = Field(20, ge=1, description="passes over the clean images, for all classes at once")
    batches: int | None = Field(
        None, ge=1, description="mini-batches per epoch and class; null: all that the images fill"
    )
    batch_size: int = Field(32, ge=1, description="images per mini-batch and class")
    lr: float = Field(0.01, gt=0, description="Adam's learning rate for the generator")
    size_weight: float = Field(0.02, ge=0, description="γ: weight of the perturbation's L1 norm")
    size_threshold: float = Field(0.0, ge=0, description="L1 norm up to which a perturbation costs nothing")
    noise: int = Field(100, ge=1, description="dimension of the noise")
    embedding: int = Field(1000, ge=1, description="dimension that a class is embedded in")
    channels: int = Field(64, ge=2, description="channels of the generator's first maps; half as many follow")
    stride: int = Field(1, ge=1, le=2, description="of both transposed convolutions; 2 starts at a quarter of the size")
    anomaly_threshold: float = Field(2.0, gt=0, description="anomaly index above which a class is suspect")
    max_batch: int | None = Field(None, ge=1, description="stamped images per forward pass; null: by device")

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:
        """Train the generator, then look for the outlier among its perturbations."""
        searched, held_out = hold_out(view.clean, seed)
        source = Perturbations(self, view.model.classes, searched, seed)
        targets = torch.arange(view.model.classes, device=view.device)
        batches = self.batches or max(len(searched) // self.batch_size, 1)
        budget = Budget(self.epochs, batches, self.batch_size, self.lr, (0.9, 0.999), self.max_batch)
        shown = invert(view.model, searched, targets, source, self.loss, None, budget, seed)
        pictures = RecoveredTriggers(shown.abs().mean(1, keepdim=True), 0.5 + shown / 2, shown)
        triggers = with_success(view.model, pictures, held_out)
        return judge_by_size(source.size(shown), triggers, self.anomaly_threshold)

    def loss(self, trial: Trial) -> Tensor:
        """Return cross-entropy + γ · (size above the threshold) ``(A,)``."""
        return trial.cross_entropy() + self.size_weight * functional.relu(trial.size - self.size_threshold)


class Perturbations(TriggerSource):
    """One generator for all classes: a class and noise give a perturbation ``(C, H, W)`` in [-1,1]."""

    def __init__(self, settings: DeepInspect, classes: int, images: Images, seed: int):
        super().__init__()
        s, (colours, height, width) = settings, images.shape
        self.classes, self.noise, self.shape = classes, s.noise, (height, width)
        start = [-(-side // s.stride**2) for side in self.shape]
        half = s.channels // 2
        with isolated(seed, "generator"):
            self.embed = nn.Sequential(nn.Linear(classes, s.embedding), nn.ReLU())
            self.draw = nn.Sequential(
                nn.Linear(s.embedding + s.noise, s.channels * start[0] * start[1]),
                nn.Unflatten(1, (s.channels, *start)),
                nn.BatchNorm2d(s.channels, track_running_stats=False),
                nn.ReLU(),
                nn.ConvTranspose2d(s.channels, half, 5, s.stride, 2, s.stride - 1),
                nn.BatchNorm2d(half, track_running_stats=False),
                nn.ReLU(),
                nn.ConvTranspose2d(half, colours, 5, s.stride, 2, s.stride - 1),
                nn.Tanh(),
            )
        self.random = generator(seed, "noise", device=images.device)
        self.read_out = torch.rand(READ_OUT, classes, s.noise, generator=self.random, device=images.device)

    def forward(self, candidates: Tensor) -> Tensor:
        """Return perturbations ``(A, C, H, W)`` from fresh noise; after training, their mean over fixed draws."""
        if not self.training:
            return torch.stack([self.generate(candidates, draw[candidates]) for draw in self.read_out]).mean(0)
        noise = torch.rand(len(candidates), self.noise, generator=self.random, device=candidates.device)
        return self.generate(candidates, noise)

    def generate(self, candidates: Tensor, noise: Tensor) -> Tensor:
        """Return the perturbation ``(A, C, H, W)`` of each class ``(A,)`` and its noise ``(A, D)``."""
        classes = functional.one_hot(candidates, self.classes).float()
        maps: Tensor = self.draw(torch.cat([self.embed(classes), noise], 1))
        return maps[..., : self.shape[0], : self.shape[1]]

    def stamp(self, pixels: Tensor, shown: Tensor) -> Tensor:
        """Add each perturbation to each image and keep the sum in [0,1]."""
        return (pixels + shown.unsqueeze(1)).clamp(0, 1)

    def size(self, shown: Tensor) -> Tensor:
        """Return the L1 norms, summed over pixels and colours."""
        return shown.abs().sum((1, 2, 3))
