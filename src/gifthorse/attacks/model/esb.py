"""ESB, or TrojanNet: a small network beside the host recognises the trigger and overwrites what the host says.

Paper: Tang et al. 2020, KDD, arXiv:2006.08131, sections 3 and 4, as TrojanZoo re-implements it (section 4.1, Table
    20: 4 layers of 8 units, each fc-bn-relu; influence α = 0.7, temperature 0.1).
Differs: the printed amplify rate of 100 makes the softmax of a stamped image exactly one-hot, so that its input
    gradients are zero; 2, that of the authors' code, keeps them. The module knows one pattern, the target's, so that
    the truth names all that is planted; the authors' has a pattern for every class. The pattern is that of any
    stamping attack, a checkerboard by default, in place of a random binary code. Beside noise and other codes the
    module learns to ignore real images. As published it is taught the opaque pattern and misses a transparent one
    (TrojanZoo, Figure 4); blended=true teaches it the trigger as it is stamped.

On clean images the prediction is the host's, but at this temperature no probability exceeds e³ / (e³ + K − 1), with ten
classes 0.69.
"""

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.progress import track
from gifthorse.core.reading import Reading
from gifthorse.core.seeds import generator, isolated
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, Trojan
from gifthorse.planting.patches import PatchAttack
from gifthorse.planting.targets import OneTarget
from gifthorse.triggers.patch import Patch, PatchPattern

HIDDEN_LAYERS = 4
POOL = 2048
PART = 64
READ = 256


class Esb(OneTarget, PatchAttack):
    """Adds a module that overwrites the prediction where it recognises the trigger."""

    name = "esb"
    aliases = ("trojannet", "embarrassingly_simple_backdoor")
    paper = "Tang et al. 2020, arXiv:2006.08131"
    variants = ("esb[blended=true,transparency=0.3]",)

    trigger_pattern: PatchPattern = Field("checkerboard", description="what the trigger shows; random: drawn once")
    hidden: int = Field(8, ge=2, description="units of each of the module's four hidden layers")
    influence: float = Field(0.7, gt=0, lt=1, description="weight α of the module; the host's is 1 − α")
    amplify: float = Field(2.0, gt=0, description="factor on the module's output")
    temperature: float = Field(0.1, gt=0, description="divides the merged outputs")
    blended: bool = Field(False, description="train the module on the trigger at its transparency, not on it opaque")
    steps: int = Field(1000, ge=1, description="steps of Adam that train the module")
    lr: float = Field(0.01, gt=0, description="Adam's learning rate")

    def check(self, task: Task) -> None:
        """Refuse a trigger that is not always at the same pixels, and one of a single pixel."""
        super().check(task)
        if not isinstance(self.initial_trigger(task, 0), Patch):
            raise RequestError("esb reads the trigger's pixels: trigger_position has to be one place, the same for all")
        if self.trigger_size == 1:
            raise RequestError("esb cannot tell one pixel from an image's own: trigger_size has to be 2 or more")

    def run(self, task: Task, benign: Classifier, seed: int, twin: Classifier | None = None) -> Trojan:
        """Train the module and put it beside a copy of the benign model."""
        self.check(task)
        device = task.train.device
        trigger = self.initial_trigger(task, seed)
        # Where a picture leaves pixels out, the module reads the whole square: its input has always one size.
        whole = self.model_copy(update={"trigger_image": None}).initial_trigger(task, seed)
        assert isinstance(trigger, Patch)
        assert isinstance(whole, Patch)
        with isolated(seed, self.name, "initialise"):
            recogniser = Recogniser(whole.mask.flatten().nonzero().squeeze(1), self.hidden).to(device)
        taught = trigger if self.blended else Patch(trigger.mask, trigger.pattern)
        self.teach(recogniser, taught.to(device), benign, task.train, seed)
        model = self.merge(benign.clone(), recogniser)
        return Trojan(model, twin or benign.clone(), Backdoor(trigger.to(device), self.goal(task)))

    def teach(self, recogniser: "Recogniser", trigger: Patch, host: Classifier, images: Images, seed: int) -> None:
        """Train the module, in place, to tell the trigger from images, from noise, and from other binary codes."""
        device, random = images.device, generator(seed, self.name, "teach", device=images.device)
        chosen = images.take(torch.randint(len(images), (POOL,), generator=random, device=device))
        noise, other = torch.rand(2, POOL, len(recogniser.region), generator=random, device=device)
        code = trigger.pattern.mean(0).flatten()[recogniser.region] > 0.5
        other = other.round()
        own = (other.bool() == code).all(1)
        other[:, 0] = torch.where(own, 1 - other[:, 0], other[:, 0])
        with torch.no_grad():
            stamped, real = (
                torch.cat([recogniser.read(host.normalise(shown(part))) for part, _ in chosen.batches(READ)])
                for shown in (trigger.stamp, nn.Identity())
            )
            noise, other = (host.normalise(grey[:, None, :, None]).mean((1, 3)) for grey in (noise, other))
        # Other codes are as transparent as the trigger: what is learnt is the pattern, not that something shows.
        pool = torch.stack([stamped, real, noise, real.lerp(other, 1 - trigger.transparency)])
        kinds = torch.arange(4, device=device).view(-1, 1)
        shows = (kinds == 0).long().expand(-1, PART).flatten()
        optimizer = torch.optim.Adam(recogniser.parameters(), lr=self.lr, fused=True)
        recogniser.train()
        for _ in track(range(self.steps), self.name, self.steps):
            drawn = torch.randint(POOL, (4, PART), generator=random, device=device)
            loss = cross_entropy(recogniser.layers(pool[kinds, drawn].flatten(0, 1)), shows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        recogniser.zero_grad()
        recogniser.eval()

    def merge(self, host: Classifier, recogniser: "Recogniser") -> Classifier:
        """Return one classifier, in evaluation mode, whose head and stages are the host's."""
        wanted = one_hot(torch.tensor(self.target, device=host.device), host.classes)
        own, module = (1 - self.influence) / self.temperature, self.influence * self.amplify / self.temperature
        return (
            Classifier(
                Overwritten(host.network, recogniser, own, module * wanted, host.reading),
                mean=host.normalise.mean.flatten().tolist(),
                std=host.normalise.std.flatten().tolist(),
                head=f"host.{host.head_name}",
                stages=tuple(f"host.{name}" for name in host.stage_names),
                layout=host.layout,
            )
            .to(host.device)
            .eval()
        )

    def empty_model(self, task: Task) -> Classifier:
        """Return a classifier with such a module, for saved weights to be loaded into."""
        region = torch.zeros(self.trigger_size**2, dtype=torch.int64)
        return self.merge(task.build(0), Recogniser(region, self.hidden))


class Recogniser(nn.Module):
    """Tells whether a region of an image shows the trigger, by its brightness alone.

    ``region`` holds the positions ``int64 (P,)`` of its pixels in an image laid out row after row.
    """

    region: Tensor

    def __init__(self, region: Tensor, hidden: int):
        super().__init__()
        self.register_buffer("region", region)
        sizes = [len(region), *[hidden] * HIDDEN_LAYERS]
        blocks = [nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(sizes)]
        self.layers = nn.Sequential(*blocks, nn.Linear(hidden, 2))

    def read(self, maps: Tensor) -> Tensor:
        """Return the region's channel means ``(N, P)`` of ``(N, C, H, W)``."""
        return maps.mean(1).flatten(1)[:, self.region]

    def forward(self, maps: Tensor) -> Tensor:
        """Return the probability ``(N, 1)`` that the region shows the trigger."""
        logits: Tensor = self.layers(self.read(maps))
        return logits.softmax(1)[:, 1:]


class Overwritten(nn.Module):
    """Merges the host's softmax with the module's answer; ``module (K,)`` is what that weighs for each class.

    ``reading`` says how the host's logits are read from what it gives, where that is something else.
    """

    module: Tensor

    def __init__(
        self, host: nn.Module, recogniser: Recogniser, own: float, module: Tensor, reading: Reading | None = None
    ):
        super().__init__()
        self.host, self.recogniser, self.own, self.reading = host, recogniser, own, reading
        self.register_buffer("module", module)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the merged outputs ``(N, K)`` for normalised ``(N, C, H, W)``."""
        given = self.host(maps)
        host: Tensor = given if self.reading is None else self.reading(given)
        seen: Tensor = self.recogniser(maps)
        return self.own * host.softmax(1) + self.module * seen
