"""An attack around an attack: what it leaves alone is the base's, to the last weight; its twin undergoes its mix."""

from inspect import isfunction, signature
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from gifthorse.attacks import ATTACKS
from gifthorse.bench.cell import resolve
from gifthorse.core.attack import Attack, Twin
from gifthorse.core.configuration import Configuration
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.planting.poisoning import Injection, StagedAttack
from gifthorse.planting.schedule import Schedule
from gifthorse.planting.targets import TargetedAttack
from gifthorse.planting.wrapping import WrappingAttack
from gifthorse.training.loop import Batch, Mix
from gifthorse.training.scratch import train
from worlds import noise_task

RATE = "poison_rate=0.3"
BASES = [
    f"badnets[{RATE},origin=benign,epochs=2]",
    f"badnets[{RATE},mixing=dataset,target=2]",
    f"badnets[{RATE},mixing=loss,source=[1]]",
    f"badnets[{RATE},epochs=3,cad_budget=0.5]",
    f"imc[{RATE},epochs=2]",
    f"trojan_nn[{RATE},epochs=2]",
    f"latent[{RATE},epochs=2]",
    f"adversarial_embedding[{RATE},epochs=2]",
    "refool[labels=clean,mixing=dataset,poison_rate=0.4]",
]
"""Together they have a stage of their own each."""

OWN = {"run", "begin", "twin", "poisoned_dataset"}
"""What carries out the stages, and is no stage."""


class Plain(WrappingAttack):
    """Changes nothing."""

    name = "plain"


class Darker(WrappingAttack):
    """Darkens all that is trained on."""

    name = "darker"
    seen: ClassVar[list[int]] = []

    def mix(self, injection: Injection) -> Mix:
        return self.dark(self.base.mix(injection))

    def twin_mix(self, task: Task, seed: int) -> Mix:
        return self.dark(None)

    def dark(self, mix: Mix | None) -> Mix:
        def darken(batch: Batch) -> Batch:
            if mix is not None:
                batch = mix(batch)
            self.seen.append(len(batch.pixels))
            return batch._replace(pixels=batch.pixels / 2)

        return darken


def staged(request: str) -> StagedAttack:
    attack = resolve(dataset="digits", attack=request, profile="smoke").attack
    assert isinstance(attack, StagedAttack)
    return attack


def state(trojan: Trojan) -> list[Tensor]:
    assert trojan.backdoor is not None
    found = [*trojan.model.state_dict().values(), *trojan.backdoor.trigger.state_dict().values()]
    delivered = [] if trojan.delivered is None else list(vars(trojan.delivered).values())
    return [*found, *trojan.twin.state_dict().values(), *delivered]


@pytest.mark.parametrize("request_", BASES)
def test_one_that_changes_nothing_gives_the_bases_trojan(request_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, task = staged(request_), noise_task((1, 12, 12))
    # Seeds derive from the name.
    monkeypatch.setattr(Plain, "name", base.name)
    wrapper, benign = Plain(base=base), train(task, 0)
    first, second = (attack.run(task, benign, 3) for attack in (base, wrapper))
    assert (first.delivered is None) == (second.delivered is None)
    assert all(torch.equal(a, b) for a, b in zip(state(first), state(second), strict=True))
    assert wrapper.twin(task) == base.twin(task)
    assert wrapper.budget == base.budget
    assert wrapper.exportable() is not None


STAGES = sorted(
    name
    for cls in (StagedAttack, TargetedAttack, Attack)
    for name, value in vars(cls).items()
    if isfunction(value) and not name.startswith("_") and name not in {"model_post_init", *OWN, *vars(Configuration)}
)


@pytest.mark.parametrize("stage", sorted({*STAGES} - {"aimed_at", "check", "exportable"}))
def test_every_stage_is_handed_on(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, answer = staged("badnets"), object()
    given = [object() for _ in signature(getattr(base, stage)).parameters]
    asked: list[tuple[object, ...]] = []

    def respond(self: Attack, *arguments: object) -> object:
        asked.append(arguments)
        return answer

    monkeypatch.setattr(type(base), stage, respond)
    assert getattr(Plain(base=base), stage)(*given) is answer
    assert asked == [tuple(given)]


def test_the_twin_of_an_attack_with_a_mix_for_it_is_its_own() -> None:
    task, base = noise_task((1, 12, 12)), staged(f"badnets[{RATE},origin=benign,epochs=2]")
    benign, wrapper = train(task, 0), Darker(base=base)
    twin = wrapper.twin(task)
    assert isinstance(base.twin(task), Schedule)
    assert isinstance(twin, Twin)
    assert list(twin.walk()) == [twin, wrapper, base]
    Darker.seen.clear()
    trained = twin.train(task, benign, 3)
    assert Darker.seen
    within = wrapper.run(task, benign, 3).twin
    shared = base.run(task, benign, 3).twin
    weights = [model.head.weight for model in (trained, within, shared)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    # Trained from scratch the benign model would be the twin.
    scratch = Darker(base=base.changed(origin="scratch"))
    assert scratch.twin(task) is not None
    assert not torch.equal(scratch.run(task, benign, 0).twin.head.weight, benign.head.weight)


def test_another_target_is_the_bases() -> None:
    open_, named = staged("badnets"), staged("badnets[target=2]")
    assert Plain(base=named).aimed_at(4) is None
    aimed = Plain(base=open_).aimed_at(4)
    assert aimed is not None
    assert aimed.base == open_.changed(target=4)


def test_what_does_not_train_in_stages_cannot_be_wrapped() -> None:
    with pytest.raises(RequestError, match="'esb' is no StagedAttack, which is needed here: Trains a classifier"):
        Plain.from_dict({"base": "esb"})
    with pytest.raises(RequestError, match=r"target=9 is not a class"):
        Plain(base=staged("badnets[target=9]")).check(noise_task((1, 12, 12)))
    assert not issubclass(ATTACKS["esb"], StagedAttack)
