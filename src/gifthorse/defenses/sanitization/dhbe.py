"""DHBE: the model is distilled into a copy of itself that is kept from reacting to any small patch, without any data.

Paper: Yan et al. 2023, arXiv:2306.08009, section 4 (Eqs. 2, 7 and 8, Algorithm 1), section 5.1.3 and appendix B.
Differs: the published code takes 5 student steps per iteration and 256 samples, the text says three and 128: the code's
    are the defaults. Lost in print and taken from the code: the layers of the generators; the size of the patch (5),
    its scale (1) and that all samples of a batch have theirs at one place (``placement=image`` draws one for each); and
    the total variation that the sample generator pays for, which the text does not have. ``abr=false`` is pure
    adversarial distillation; with ``regularisation=0`` stamped samples still pass through the student and enter its
    statistics, as section 5.4.1 says. A sample that ends in batch normalisation is mapped to pixels by the classifier's
    own mean and deviation. In the paper these are the training images', which its defender so knows; in this package's
    networks they are fixed (0.5, and 0.25 or 0.5), and a network that takes pixels as they are tells nothing: ``mean``
    and ``deviation`` say what images are like. Like the code's, pixels are not cut to [0,1], stamped or not. The
    trigger generator takes its step on the samples of the sample generator's, whose plain logits are known, not on
    fresh ones. On a GPU all networks run in bfloat16, losses and weights in float32. Without batch normalisation, of
    which the paper's networks are full, teacher and student agree on everything at first: samples have nothing to look
    for until patches, or weight decay, have moved the student, and no statistics of it are renewed.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.optim.lr_scheduler import MultiStepLR

from gifthorse.core.defense import Defense
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator, isolated
from gifthorse.core.views import DataFreeView
from gifthorse.inversion.frozen import freeze
from gifthorse.training.erased import erased
from gifthorse.training.generators import PatchGenerator, SampleGenerator, add_patches, total_variation
from gifthorse.training.optimisers import adam, sgd
from gifthorse.training.precision import fast_on_gpu

FALLS = (6, 8)
"""Tenths of the iterations after which every learning rate is a tenth of what it was."""
COMPARED = 512
"""Samples on which the student is compared with the teacher in the end."""


class Dhbe(Defense[DataFreeView]):
    """Distils the model into a copy, on samples that they disagree on, and has it ignore the patches that move it."""

    name = "dhbe"
    paper = "Yan et al. 2023, arXiv:2306.08009"
    variants = ("dhbe[abr=false]", "dhbe[regularisation=0.0,placement=image,patch_size=11]")
    family = "sanitization"
    view = DataFreeView

    iterations: int = Field(15_000, ge=1, description="rounds of student steps and a step of each generator")
    student_steps: int = Field(5, ge=1, description="steps of the student per iteration")
    batch_size: int = Field(256, ge=2, description="samples, and patches, per step")
    lr: float = Field(0.1, gt=0, description="the student's learning rate (SGD) at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="the student's momentum")
    weight_decay: float = Field(5e-4, ge=0, description="the student's weight decay")
    generator_lr: float | None = Field(
        None, gt=0, description="Adam's learning rate for both generators at the start; null: a hundredth of the lr"
    )
    abr: bool = Field(True, description="adversarial backdoor regularisation; false: pure adversarial distillation")
    regularisation: float = Field(0.1, ge=0, description="λ: weight of the student's reaction to patches")
    patch_size: int = Field(5, ge=1, description="side of the generated patches, in pixels")
    patch_scale: float = Field(1.0, gt=0, description="the most that a patch may add to a pixel")
    placement: Literal["batch", "image"] = Field("batch", description="a place is drawn for each batch or each image")
    smoothness: float = Field(1e-4, ge=0, description="weight of the samples' total variation (L2)")
    mean: tuple[float, ...] | None = Field(
        None, description="mean of the samples' pixels, colour by colour; null: what the classifier subtracts"
    )
    deviation: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="standard deviation of the samples' pixels, colour by colour; null: what it divides by"
    )
    noise: int = Field(256, ge=1, description="dimension of the noise that either generator starts from")
    width: int = Field(64, ge=1, description="channels of a generator's last maps; those before have twice as many")

    def skip(self, view: DataFreeView) -> str | None:
        """Refuse a model without a decision, patches larger than images, and statistics unknown or of other colours."""
        (colours, height, width), known = view.shape, view.model.normalise
        if view.classes < 2:
            return "the model has one class: there is no decision to distil"
        if any(given is not None and len(given) != colours for given in (self.mean, self.deviation)):
            return f"its mean and deviation are not one number for each of the images' {colours} channels"
        if None in (self.mean, self.deviation) and not known.mean.any() and bool((known.std == 1).all()):
            return "the network takes pixels as they are: mean and deviation have to say what images are like"
        if self.abr and self.patch_size > min(height, width):
            return f"its patches of {self.patch_size}×{self.patch_size} do not fit into images of {height}×{width}"
        return None

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:
        """Distil; what the student is after the last iteration is handed back, whatever it was in between.

        It is compared with the teacher on samples of the last iteration's generator.
        """
        distillation = Distillation(self, view, seed)
        with isolated(seed, self.name, "student"):  # dropout draws from the global state
            for _ in track(range(self.iterations), "data-free distillation", self.iterations):
                distillation.iterate()
        student = distillation.student
        student.zero_grad()
        return erased(view.model, student.eval(), samples=distillation.show(seed))


class Distillation:
    """Teacher, student and the two generators, and a step of each."""

    def __init__(self, settings: Dhbe, view: DataFreeView, seed: int):
        s, device = settings, view.device
        self.settings = s
        self.teacher, self.student = freeze(view.model), view.model.clone().to(memory_format=torch.channels_last)
        self.student.train()
        self.weights = [weight for weight in self.student.parameters() if weight.requires_grad]
        with isolated(seed, "generators"):
            self.samples = SampleGenerator(view.shape, s.noise, s.width).to(device)
            self.patches = PatchGenerator(view.shape[0], s.patch_size, s.noise, s.width).to(device)
        if device.type == "cuda":  # elsewhere it costs time
            self.samples.to(memory_format=torch.channels_last)
            self.patches.to(memory_format=torch.channels_last)
        self.random = generator(seed, "draws", device=device)
        rate = s.generator_lr or s.lr / 100
        known = view.model.normalise
        self.mean, self.deviation = (
            own if said is None else torch.tensor(said, device=device).view(1, -1, 1, 1)
            for own, said in ((known.mean, s.mean), (known.std, s.deviation))
        )
        self.of_student = sgd(self.weights, s.lr, s.momentum, s.weight_decay)
        self.of_samples, self.of_patches = adam(self.samples.parameters(), rate), adam(self.patches.parameters(), rate)
        optimisers = [self.of_student, self.of_samples, *([self.of_patches] if s.abr else [])]
        falls = [-(-tenths * s.iterations // 10) for tenths in FALLS]
        self.schedules = [MultiStepLR(optimiser, falls, gamma=0.1) for optimiser in optimisers]

    def iterate(self) -> None:
        """Take the student's steps, then one of each generator."""
        for _ in range(self.settings.student_steps):
            self.step(self.of_student, self.student_loss())
        _trainable(self.weights, False)
        pixels, logits = self.step_of_samples()
        if self.settings.abr:
            self.step_of_patches(pixels, logits)
        _trainable(self.weights, True)
        for schedule in self.schedules:
            schedule.step()

    def student_loss(self) -> Tensor:
        """Return Eq. 8 on fresh samples, ‖S(x) - T(x)‖ + λ ‖S(x + patch) - S(x)‖; the last S(x) is held fixed."""
        with torch.no_grad():
            pixels = self.pixels(self.run(self.samples, self.draw()))
            stamped = self.stamped(pixels) if self.settings.abr else None
            wanted = self.run(self.teacher, pixels)
        logits = self.run(self.student, pixels)
        loss = l1_loss(logits, wanted)
        if stamped is not None:
            # A pass of its own: the patches do not move the statistics that plain samples are normalised by.
            with torch.set_grad_enabled(self.settings.regularisation > 0):
                reaction = l1_loss(self.run(self.student, stamped), logits.detach())
            loss = loss + self.settings.regularisation * reaction
        return loss

    def step_of_samples(self) -> tuple[Tensor, Tensor]:
        """Move the samples to where teacher and student disagree; returns them and the student's logits."""
        normalised = self.run(self.samples, self.draw())
        pixels = self.pixels(normalised)
        logits = self.run(self.student, pixels)
        gap = l1_loss(logits, self.run(self.teacher, pixels))
        self.step(self.of_samples, self.settings.smoothness * total_variation(normalised) - gap)
        return pixels.detach(), logits.detach()

    def step_of_patches(self, pixels: Tensor, logits: Tensor) -> None:
        """Move the patches to where the student reacts, on samples whose plain logits are known."""
        self.step(self.of_patches, -l1_loss(self.run(self.student, self.stamped(pixels)), logits))

    def step(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        """Step down a loss."""
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def run(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Return what one of the networks makes of its inputs, ``float32`` whatever it computes in."""
        with fast_on_gpu(inputs.device):
            made: Tensor = network(inputs)
        return made.float()

    @torch.no_grad()
    def show(self, seed: int) -> Tensor:
        """Return pixels of :data:`COMPARED` fresh samples, made in batches like those that were trained on."""
        self.random = generator(seed, "shown", device=self.random.device)
        batches = -(-COMPARED // self.settings.batch_size)
        return torch.cat([self.pixels(self.run(self.samples, self.draw())) for _ in range(batches)])[:COMPARED]

    def draw(self) -> Tensor:
        """Return fresh noise for a batch."""
        s = self.settings
        return torch.randn(s.batch_size, s.noise, generator=self.random, device=self.random.device)

    def pixels(self, normalised: Tensor) -> Tensor:
        """Give ``normalised (N, C, H, W)``, of mean 0 and deviation 1, the mean and deviation of pixels."""
        return normalised * self.deviation + self.mean

    def stamped(self, pixels: Tensor) -> Tensor:
        """Return ``pixels (N, C, H, W)`` with a fresh patch added to each."""
        s, (count, _, height, width) = self.settings, pixels.shape
        patches = s.patch_scale * self.run(self.patches, self.draw())
        places = [
            torch.randint(
                side - s.patch_size + 1,
                (count if s.placement == "image" else 1, 1, 1),
                generator=self.random,
                device=pixels.device,
            )
            for side in (height, width)
        ]
        return add_patches(pixels, patches, places[0], places[1])


def _trainable(weights: Iterable[nn.Parameter], trainable: bool) -> None:
    for weight in weights:
        weight.requires_grad_(trainable)
