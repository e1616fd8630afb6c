"""What attacks share whose triggers a network makes: it is trained with the model, or comes from another data set.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), section 3.2 (steps 1 to 6: the model takes a step down
    both losses, the network one down the backdoor loss) and section 4.8 (a network trained with another model poisons
    a data set; where images are grey its colours are averaged).
Differs: the network's optimiser is lost in print: Adam. A grey network poisons coloured images as well, with the same
    pattern in every channel.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import Field
from torch import Tensor

from gifthorse.checkpoints.reading import read_state_dict
from gifthorse.core.errors import RequestError
from gifthorse.core.recipe import AdversarialRecipe
from gifthorse.core.seeds import isolated
from gifthorse.core.task import Task
from gifthorse.core.trojan import DeliveredSet
from gifthorse.planting.adaptive import AdaptiveAttack
from gifthorse.planting.dynamic import DynamicAttack
from gifthorse.planting.mixing import PoisonedSet
from gifthorse.planting.poisoning import Injection
from gifthorse.training.loop import Mix
from gifthorse.training.optimisers import adam
from gifthorse.triggers.generated_patch import GeneratedPatch

STORED = "trigger/network."
"""What comes before the names of a network's weights where the store keeps a trojan."""


class GeneratedAttack(DynamicAttack, AdaptiveAttack):
    """Stamps patterns of a network that is trained along, or was trained before."""

    noise: int = Field(64, ge=1, description="length of the noise that the network makes a pattern of")
    hidden: tuple[int, ...] = Field(
        (64, 128, 128), min_length=1, description="widths of the network's layers but the last, the encoder's first"
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, description="dropout while the network is trained, after all layers but the first and the last"
    )
    output_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the pattern's pixels that turn black, others on every image"
    )
    generator_lr: float = Field(1e-3, gt=0, description="learning rate of the network's Adam")
    generator_from: str | None = Field(
        None,
        description="file with a trained network: a trojan of the store (artifacts/trojan/KEY.safetensors), or the "
        "network's weights; it poisons, and is not trained further",
    )

    @property
    def told(self) -> bool:
        """Whether the network is told which condition its pattern is for."""
        return False

    @property
    def directs_training(self) -> bool:
        """Whether the network is trained along, or training goes against a defense."""
        return self.generator_from is None or super().directs_training

    @property
    def poisons_once(self) -> bool:
        """Whether the network is there before training: only one that is named."""
        return self.generator_from is not None

    def files(self) -> tuple[Path, ...]:
        """Return the network's file, if one is named."""
        return () if self.generator_from is None else (Path(self.generator_from).expanduser(),)

    def check(self, task: Task) -> None:
        """Refuse to train a network where nothing would teach it."""
        if self.mixing == "dataset" and not self.poisons_once:
            raise RequestError(
                "mixing=dataset stamps images once, so that the network would learn nothing: "
                "name a trained one with generator_from"
            )
        if self.generator_from is None and isinstance(task.recipe, AdversarialRecipe):
            raise RequestError(
                f"'{self.name}' trains its network through the images, which adversarial training replaces: "
                "use another training, or name a trained network with generator_from"
            )
        super().check(task)

    def placed_trigger(self, task: Task, places: Tensor, size: tuple[int, int, int], seed: int) -> GeneratedPatch:
        """Return the patterns of a new network, or of the one that is named."""
        conditions = len(self.targets(task)) if self.told else 0
        if self.generator_from is None:
            with isolated(seed, "network"):
                return GeneratedPatch(
                    places,
                    size,
                    self.transparency,
                    noise=self.noise,
                    conditions=conditions,
                    hidden=self.hidden,
                    dropout=self.dropout,
                    output_dropout=self.output_dropout,
                )
        return self.read_trigger(places, size, conditions)

    def read_trigger(self, places: Tensor, size: tuple[int, int, int], conditions: int) -> GeneratedPatch:
        """Return the patterns of the network that is named; :class:`RequestError` where it makes others."""
        (path,) = self.files()
        given = read_state_dict(path)
        weights = {name.removeprefix(STORED): each for name, each in given.items() if name.startswith(STORED)} or given
        names = ["noise_encoder.weight", "last.weight", "last.bias"]
        if not all(name in weights and weights[name].ndim for name in names):
            raise RequestError(f"{path} holds no network that makes triggers: '{names[0]}' and others are not there")
        layers = sum(name.startswith("layers.") and name.endswith(".weight") for name in weights)
        hidden = [len(weights["noise_encoder.weight"]), *(len(weights[f"layers.{n}.weight"]) for n in range(layers))]
        told = weights["condition_encoder.weight"].shape[1] if "condition_encoder.weight" in weights else 0
        if told != conditions:
            wanted = f"one for {conditions} targets" if conditions else "one that is not told the target"
            has = f"was trained for {told} targets" if told else "is not told the target"
            raise RequestError(f"{path}: its network {has}; needed is {wanted}")
        made, left = divmod(len(weights["last.bias"]), size[1] * size[2])
        if left or not made:
            raise RequestError(
                f"{path}: its network makes patterns of {len(weights['last.bias'])} values, not of {size[1]}×{size[2]} "
                "pixels: set trigger_size to what it was trained for"
            )
        trigger = GeneratedPatch(
            places,
            size,
            self.transparency,
            noise=weights["noise_encoder.weight"].shape[1],
            conditions=conditions,
            channels=made,
            hidden=hidden,
            dropout=self.dropout,
            output_dropout=self.output_dropout,
        )
        trigger.network.load_state_dict(weights)
        return trigger

    @property
    def trains_trigger(self) -> bool:
        """Whether the network learns from the mini-batches: unless it is named."""
        return self.generator_from is None

    def mix(self, injection: Injection) -> Mix | None:
        """Return what adds stamped copies to every batch, through which the network learns."""
        injection.backdoor.trigger.train(self.trains_trigger)
        return super().mix(injection)

    def after_step(self, injection: Injection) -> Callable[[], None] | None:
        """Return a step of the network down the same loss: the clean images' part of it has no gradient there."""
        if self.generator_from is not None:
            return None
        optimizer = adam(injection.backdoor.trigger.parameters(), lr=self.generator_lr)

        def step() -> None:
            optimizer.step()
            optimizer.zero_grad()

        return step

    def deliver(self, injection: Injection, poisoned: PoisonedSet | None) -> DeliveredSet | None:
        """Return the training set that is handed over, the network trained."""
        injection.backdoor.trigger.eval().requires_grad_(False)
        return super().deliver(injection, poisoned)
