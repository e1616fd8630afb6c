"""Adaptive attacks on digits: does training against a defense evade it, at the scale of the smoke profile?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gifthorse.bench.cell import Cell, resolve
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.evasion import Attacker, Seen
from gifthorse.core.pgd import Pgd
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.metrics.stamped import stamp_for_judging
from gifthorse.training.adversarial import perturb
from worlds import digits_world


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(Store(tmp_path_factory.mktemp("runs")), Path("unused"), torch.device("cpu"))


def cell(attack: str, defense: str | None = None) -> Cell:
    return resolve(dataset="digits", attack=attack, defense=defense, profile="smoke")


def both(runner: Runner, defense: str, attack: str = "imc") -> tuple[dict[str, Any], dict[str, Any]]:
    """What the defense makes of the attack, and of the same attack trained against it."""
    requests = f"{attack}[trigger_size=4]", f"{attack}[trigger_size=4,against={defense}]"
    plain, adaptive = (runner.run(cell(each, defense)) for each in requests)
    assert (plain.status, adaptive.status) == ("done", "done")
    for each in (plain, adaptive):
        assert float(each.metrics["attack.asr"]) > 0.9  # type: ignore[arg-type]
        assert float(each.metrics["attack.acc"]) > 0.9  # type: ignore[arg-type]
    return plain.metrics, adaptive.metrics


@pytest.mark.parametrize("defense", ["manifold_projection", "shrinkpad"])
def test_a_trigger_trained_through_the_reform_gets_through_the_defenders_own(defense: str, runner: Runner) -> None:
    plain, adaptive = both(runner, defense)
    assert plain["defense.asr"] < 0.4
    assert adaptive["defense.asr"] > 0.9


def test_strip_sees_nothing_of_an_attack_that_trained_on_its_mixtures(runner: Runner) -> None:
    plain, adaptive = both(runner, "strip")
    assert plain["defense.tpr"] > 0.8
    assert adaptive["defense.tpr"] < 0.2
    assert adaptive["defense.passed_asr"] > 0.8


def test_the_surrogate_is_kept_and_is_not_the_defenders(runner: Runner) -> None:
    both(runner, "manifold_projection")
    attack = cell("imc[trigger_size=4,against=manifold_projection]", "manifold_projection")
    record = runner.run(attack)
    assert record.artifacts is not None
    surrogate, own = (
        runner.store.load_artifact(kind, record.artifacts[kind]) for kind in ("attack_prepared", "prepared")
    )
    assert surrogate is not None
    assert own is not None
    assert {name.removeprefix("0/") for name in surrogate[0]} == set(own[0])
    assert all((surrogate[0][f"0/{name}"] != array).any() for name, array in own[0].items())
    # Another attack against the same defense shares it.
    other = runner.run(cell("badnets[against=manifold_projection]"))
    assert other.artifacts is not None
    assert other.artifacts["attack_prepared"] == record.artifacts["attack_prepared"]


def trained(attack: str) -> tuple[Trojan, Task]:
    world = digits_world()
    return cell(attack).attack.run(world.task, world.benign, 0), world.task


def test_training_against_an_adversary_leaves_a_robust_model_with_a_backdoor() -> None:
    """A robust trojan: adversarial training and the backdoor's in one."""
    search = Pgd(radius=0.1, step_size=0.025, steps=7, start="image")
    robust = []
    for request in ("imc", "imc[against=adversarial_retraining[radius=0.1,step_size=0.025]]"):
        trojan, task = trained(request)
        images = task.test.take(slice(200))
        moved = perturb(trojan.model, images.floats(), images.labels, search)
        robust.append(float((predict(trojan.model, moved).argmax(1) == images.labels).float().mean()))
        assert trojan.backdoor is not None
        stamped, targets = stamp_for_judging(trojan.backdoor, task.test)
        assert float((predict(trojan.model, stamped).argmax(1) == targets).float().mean()) > 0.9
    assert robust[1] > robust[0] + 0.15


def seen(model: Classifier, trojan: Trojan, task: Task) -> Seen:
    """Clean images of all classes, and stamped ones of the others."""
    assert trojan.backdoor is not None
    clean = task.test.take(slice(100))
    stamped, targets = stamp_for_judging(trojan.backdoor, task.test.take(slice(100, 200)))
    pixels, labels = torch.cat([clean.floats(), stamped]), torch.cat([clean.labels, targets])
    with torch.no_grad():
        return Seen(pixels, labels, 100, *model.features_and_logits(pixels))


@pytest.mark.parametrize("defense", ["abs", "activation_clustering", "aegis"])
def test_what_a_penalty_measures_is_less_after_training_against_it(defense: str) -> None:
    world = digits_world()
    found = cell("badnets", defense).defense
    assert found is not None
    values = []
    for request in ("badnets", f"badnets[against={defense},against_weight=0.5]"):
        trojan, task = trained(request)
        penalty = found.evasion(Attacker(task.train, world.benign, (0,), 9.0), 0).penalty
        assert penalty is not None
        with torch.no_grad():
            values.append(float(penalty(trojan.model, seen(trojan.model, trojan, task))))
    assert values[1] < 0.8 * values[0]


def test_a_discriminator_of_the_attackers_own_finds_less_in_a_model_trained_against_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A local meta-classifier, fitted to the attacker's images alone; whether that fools another is a measurement."""
    monkeypatch.setattr("gifthorse.defenses.inspection.mntd.LEAST_AUROC", 0.0)
    world, mntd = digits_world(), cell("none", "mntd").defense
    assert mntd is not None
    attack = cell("cban[against=mntd,against_weight=0.5]").attack
    preparation = attack.preparation(world.task)
    assert preparation is not None
    task = replace(world.task, prepared=preparation.prepare(world.task, world.benign, 0))
    own = {name.removeprefix("0/"): each for name, each in task.prepared.items()}
    judge = mntd.evasion(Attacker(task.train, world.benign, (0,), 9.0, own), 0).penalty
    assert judge is not None
    scores = []
    for trained_so in (cell("cban").attack, attack):
        trojan = trained_so.run(task, world.benign, 0, world.trojan.twin)
        with torch.no_grad():
            looked = seen(trojan.model, trojan, task)
            scores.append(float(judge(trojan.model, looked)))
    assert scores[1] < 0.8 * scores[0]
