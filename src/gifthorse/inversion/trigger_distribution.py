"""Models of the distribution of all triggers that send images to a class, not of one of them, and how often they do.

Paper: Qiao, Yang, Li 2019, NeurIPS, arXiv:1910.03749, sections 3 to 5 (max-entropy staircase approximator).
Differs: it calls a class attacked whose triggers reach "about 90 %", and prints no threshold: here it is the class
    whose triggers reach it most on held-out clean images, if they do on more than half. The triggers' size, which it
    assumes to be known, layers and Adam are those of the authors' code, but all generators are trained side by side, as
    a batch. Mutual information is estimated by the Donsker-Varadhan bound with its plain gradient (that code corrects
    it by a moving average), and the network that estimates it ends in a linear layer, not in a leaky ReLU: a bound that
    cannot fall is none. Triggers with their noise are kept in [0,1]. An image may be drawn twice for a mini-batch, so
    that few images fill it. Batch normalisation always goes by the batch: what is handed back is one large batch of
    triggers.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.configuration import Configuration
from gifthorse.core.images import Images
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator, isolated
from gifthorse.core.views import ModelView
from gifthorse.inversion.engine import reached
from gifthorse.inversion.frozen import freeze
from gifthorse.training.optimisers import adam
from gifthorse.training.precision import fast_arithmetic

PARTS = 4
"""Layers of a generator, each of which is fed a part of the noise."""
DRAWN = 1024
"""Triggers of each distribution that are handed back."""
PLACES = 8
"""Random places at which the success of triggers is measured."""


class Linears(nn.Module):
    """A linear layer for each of ``A`` candidates."""

    def __init__(self, candidates: int, inputs: int, outputs: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(candidates, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(candidates, 1, outputs).uniform_(-bound, bound))

    def forward(self, rows: Tensor) -> Tensor:
        """Map ``(A, B, inputs)`` to ``(A, B, outputs)``."""
        return torch.baddbmm(self.bias, rows, self.weight)


class Generators(nn.Module):
    """A generator for each of ``A`` candidates: four layers, each of which sees another part of the noise."""

    def __init__(self, candidates: int, noise: int, hidden: int, outputs: int):
        super().__init__()
        part = noise // PARTS
        self.first = Linears(candidates, part, hidden)
        self.further = nn.ModuleList(Linears(candidates, hidden + part, hidden) for _ in range(PARTS - 2))
        self.last = Linears(candidates, hidden + part, outputs)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(candidates * hidden, track_running_stats=False) for _ in range(PARTS - 1)
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Map noise ``(A, B, D)`` to triggers ``(A, B, outputs)`` in [0,1]."""
        parts = noise.chunk(PARTS, 2)
        hidden = self._normalised(0, self.first(parts[0]))
        for layer, part in enumerate(parts[1:-1]):
            hidden = self._normalised(layer + 1, self.further[layer](torch.cat([hidden, part], 2)))
        return torch.sigmoid(self.last(torch.cat([hidden, parts[-1]], 2)))

    def _normalised(self, layer: int, rows: Tensor) -> Tensor:
        """Normalise each unit over the batch of its own candidate."""
        units: Tensor = self.norms[layer](rows.transpose(0, 1).flatten(1))
        return leaky_relu(units.unflatten(1, (rows.shape[0], -1)).transpose(0, 1), 0.2)


class Statistics(nn.Module):
    """Tells pairs of noise and its own trigger from pairs that have nothing to do with each other, per candidate."""

    def __init__(self, candidates: int, noise: int, hidden: int, outputs: int):
        super().__init__()
        self.of_noise = Linears(candidates, noise, hidden)
        self.of_trigger = Linears(candidates, outputs, hidden)
        self.further = Linears(candidates, hidden, hidden)
        self.last = Linears(candidates, hidden, 1)

    def forward(self, noise: Tensor, triggers: Tensor) -> Tensor:
        """Return a number ``(A, B)`` for each pair."""
        hidden = leaky_relu(self.of_noise(noise) + self.of_trigger(triggers))
        found: Tensor = self.last(leaky_relu(self.further(hidden))).squeeze(2)
        return found

    def information(self, noise: Tensor, other: Tensor, triggers: Tensor) -> Tensor:
        """Return the bound ``(A,)`` on the mutual information of triggers and their ``noise``; ``other`` is fresh."""
        return donsker_varadhan(self(noise, triggers), self(other, triggers))


def donsker_varadhan(together: Tensor, apart: Tensor) -> Tensor:
    """Return E[T] over pairs drawn together - log E[exp T] over independent ones; both are ``(A, B)``."""
    return together.mean(1) - (apart.logsumexp(1) - math.log(apart.shape[1]))


class TriggerModelling(Configuration):
    """How distributions of triggers are modelled, as the fields of whatever defense does."""

    success: float = Field(
        0.5, ge=0, le=1, description="share of held-out images that a class's triggers must reach to make it suspect"
    )
    alpha: float = Field(0.1, ge=0, description="α: weight of the mutual information of triggers and noise")
    trigger_size: int = Field(3, ge=1, description="side of the triggers, in pixels")
    generator_steps: int = Field(625, ge=1, description="steps that the generators are trained for")
    generator_batch_size: int = Field(128, ge=2, description="images per step and generator")
    generator_lr: float = Field(2e-4, gt=0, description="Adam's learning rate for generators and estimator")
    noise: int = Field(64, ge=4, multiple_of=4, description="dimension of the noise, a quarter for each layer")
    hidden: int = Field(512, ge=1, description="units of each hidden layer")
    deviation: float = Field(0.1, ge=0, description="standard deviation of the noise that is added to a trigger")

    def unfit(self, view: ModelView) -> str | None:
        """Return one sentence why no trigger of this model's classes can be modelled, or ``None``."""
        if view.model.classes < 2:
            return "the model has one class: there is no other whose images a trigger could send to it"
        if min(view.shape[1:]) < self.trigger_size:
            size = "×".join(map(str, view.shape))
            return f"a trigger of {self.trigger_size}×{self.trigger_size} does not fit into images of {size}"
        return None

    def search(
        self, model: Classifier, images: Images, held_out: Images, beta: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return triggers ``(K, DRAWN, C, size, size)`` of every class, and the share ``(K,)`` that they send there.

        They are modelled on ``images`` and tried on those of other classes in ``held_out``.
        """
        triggers = self.model_triggers(model, images, range(model.classes), [beta], seed)
        every = torch.arange(model.classes, device=images.device)
        return triggers, success_rates(model, triggers, every, held_out, seed)

    def model_triggers(
        self, model: Classifier, images: Images, classes: Sequence[int], betas: Sequence[float], seed: int
    ) -> Tensor:
        """Return triggers ``(A, DRAWN, C, size, size)`` drawn from the model of each class and β, ``A`` of them.

        All β of a class follow each other. A generator raises the confidence in its class of stamped images, as far as
        its β.
        """
        device = images.device
        targets = torch.tensor(list(classes), device=device).repeat_interleave(len(betas))
        tops = torch.tensor(list(betas), device=device).repeat(len(classes))
        count, shape = len(targets), (images.shape[0], self.trigger_size, self.trigger_size)
        size = self.generator_batch_size
        with isolated(seed, "generators"):
            sizes = count, self.noise, self.hidden, math.prod(shape)
            makers, statistics = Generators(*sizes).to(device), Statistics(*sizes).to(device)
        optimizers = [adam(each.parameters(), self.generator_lr, (0.5, 0.999)) for each in (makers, statistics)]
        random, places = generator(seed, "triggers", device=device), generator(seed, "places")
        frozen = freeze(model)
        together = max((4096 if device.type == "cuda" else 128) // size, 1)
        for _ in track(range(self.generator_steps), "trigger distribution", self.generator_steps):
            batch = images.take(torch.randint(len(images), (size,), generator=random, device=device))
            pixels, place = batch.floats(), random_place(images.shape, self.trigger_size, places)
            noise, other = torch.rand(2, count, size, self.noise, generator=random, device=device)
            triggers = makers(noise)
            # Gradients gather in a leaf: the generators' layers are passed once, whatever asks something of triggers.
            leaf = triggers.detach().requires_grad_()
            optimizers[1].zero_grad()
            (-statistics.information(noise, other, leaf.detach()).sum()).backward()
            optimizers[1].step()
            information = statistics.information(noise, other, leaf).sum()
            (leaf.grad,) = torch.autograd.grad(-self.alpha * information, [leaf])
            shown = self._with_noise(leaf, random).unflatten(2, shape)
            for part in torch.arange(count, device=device).split(together):
                stamped = paste(pixels.expand(len(part), *pixels.shape), shown[part], place)
                with fast_arithmetic(device):
                    logits = frozen(stamped.flatten(0, 1).contiguous(memory_format=torch.channels_last))
                confidence = logits.float().softmax(1).unflatten(0, stamped.shape[:2])
                wanted = confidence.gather(2, targets[part].view(-1, 1, 1).expand(-1, size, 1)).squeeze(2)
                staircase(wanted, tops[part]).sum().backward(retain_graph=True)
            optimizers[0].zero_grad()
            triggers.backward(leaf.grad)
            optimizers[0].step()
        with torch.no_grad():
            noise = torch.rand(count, DRAWN, self.noise, generator=random, device=device)
            drawn: Tensor = self._with_noise(makers(noise), random).unflatten(2, shape)
        return drawn

    def _with_noise(self, triggers: Tensor, random: torch.Generator) -> Tensor:
        noise = torch.randn(triggers.shape, generator=random, device=triggers.device)
        return (triggers + self.deviation * noise).clamp(0, 1)


def staircase(confidence: Tensor, betas: Tensor) -> Tensor:
    """Return the loss ``(A,)`` of confidences ``(A, B)``: what is above a candidate's β is worth no more."""
    return -torch.minimum(confidence, betas.unsqueeze(1)).mean(1)


def random_place(shape: tuple[int, int, int], size: int, random: torch.Generator) -> tuple[int, int]:
    """Return row and column of a square of so many pixels that lies inside an image, drawn on the host."""
    row, column = (int(torch.randint(side - size + 1, (), generator=random)) for side in shape[1:])
    return row, column


def paste(pixels: Tensor, triggers: Tensor, place: tuple[int, int]) -> Tensor:
    """Return images ``(..., C, H, W)`` with triggers ``(..., C, size, size)`` in place of what they show there."""
    (row, column), size = place, triggers.shape[-1]
    stamped = pixels.clone()
    stamped[..., row : row + size, column : column + size] = triggers
    return stamped


def success_rates(model: Classifier, triggers: Tensor, targets: Tensor, held_out: Images, seed: int) -> Tensor:
    """Return the share ``(A,)`` of images of other classes that ``triggers (A, P, C, size, size)`` send to their class.

    Each image gets a trigger of its own, at several random places; the share is zero where there are no such images.
    """
    rates, places = [], generator(seed, "success")
    for drawn, target in zip(triggers, targets, strict=True):
        others = held_out.take(held_out.labels != target)
        hits = [torch.zeros(1, device=held_out.device)]
        for turn in range(PLACES if len(others) else 0):
            chosen = torch.arange(turn, turn + PLACES * len(others), PLACES, device=drawn.device) % len(drawn)
            place = random_place(held_out.shape, drawn.shape[-1], places)
            logits = predict(model, paste(others.floats(), drawn[chosen], place))
            hits.append(reached(logits, target).float())
        rates.append(torch.cat(hits).sum() / max(PLACES * len(others), 1))
    return torch.stack(rates)


def carriers(triggers: Tensor, classes: Sequence[int], held_out: Images, seed: int) -> tuple[Tensor, Tensor]:
    """Return ``held_out`` images ``(N, C, H, W)`` with triggers, and the class ``(N,)`` of each one's trigger.

    ``triggers (A, P, C, size, size)`` are those of the ``A`` classes, which share the images of others; they are taken
    evenly, one for each image. Places are a few, and random.
    """
    pixels, wanted, places = [], [], generator(seed, "carriers")
    for turn, (drawn, label) in enumerate(zip(triggers, classes, strict=True)):
        given = held_out.take(slice(turn, None, len(classes)))
        others = given.take(given.labels != label).floats()
        count = len(others)
        own = drawn[torch.arange(count, device=drawn.device) * len(drawn) // max(count, 1)]
        for first in range(PLACES):
            place = random_place(held_out.shape, drawn.shape[-1], places)
            pixels.append(paste(others[first::PLACES], own[first::PLACES], place))
        wanted.append(torch.full((count,), label, device=drawn.device))
    return torch.cat(pixels), torch.cat(wanted)
