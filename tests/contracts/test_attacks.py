"""Promises of every listed attack, in each of its declared variants."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from gifthorse.attacks import ATTACKS
from gifthorse.bench.cell import resolve
from gifthorse.bench.packing import pack_trojan
from gifthorse.bench.store import Store
from gifthorse.contracts.attacks import OF_POISONING, attack_promises, run
from gifthorse.contracts.promise import Promise
from gifthorse.contracts.worlds import GREY
from gifthorse.core.attack import Attack
from gifthorse.core.classifier import Classifier
from gifthorse.core.metric import METRICS, UNDECLARED
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, Trojan
from gifthorse.metrics.attacks import judge_attack
from worlds import affordable, noise_task, requests

NO_POISONING = {
    "none": "plants nothing",
    "multimodal_clean": "plants nothing",
    "esb": "trains nothing of the host: its module is put beside it",
    "enhanced": "its base is asked",
    "ban": "its network learns while images are stamped",
    "cban": "its network learns while images are stamped",
}
"""Attacks of which what is promised of poisoned training sets is not asked, and why."""

LISTED = requests(ATTACKS)
PLANTING = [request for request in LISTED if not request.startswith(("none", "multimodal_clean"))]
# One process for all promises of one request: so each is trained once.
every_planting_attack = pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.xdist_group(each)) for each in PLANTING]
)

# A thousand digits and a few epochs are too little for ten targets at once, or to keep all labels.
HARD_ON_DIGITS = {
    "badnets[target=next]",
    "refool[labels=clean,mixing=dataset,poison_rate=0.4]",
    "label_consistent",
    "label_consistent[also_at=[],poison_rate=0.5,norm=l2,radius=2.0,step_size=0.2]",
}


def at_smoke_scale(request: str) -> Attack:
    return resolve(dataset="digits", attack=request, profile="smoke").attack


PROMISES = [(request, promise) for request in LISTED for promise in attack_promises(at_smoke_scale(request))]
every_promise = pytest.mark.parametrize(
    "promise",
    [
        pytest.param(promise, marks=pytest.mark.xdist_group(request), id=f"{promise.name}-{request}")
        for request, promise in PROMISES
    ],
)


@every_promise
def test_keeps_its_promises(promise: Promise) -> None:
    affordable(promise.method)
    promise()


def test_an_attack_that_no_promise_of_poisoning_is_asked_of_is_named_with_a_reason() -> None:
    own = {name for name, cls in ATTACKS.items() if cls.__module__.startswith("gifthorse.")}
    last = OF_POISONING[-1].__name__
    asked = {request.split("[")[0] for request, promise in PROMISES if promise.name == last}
    assert own - asked == set(NO_POISONING), "ask of it what is asked of poisoned sets, or say in NO_POISONING why not"


@cache
def on_noise(request: str) -> Trojan:
    return run(affordable(at_smoke_scale(request)))


def planted(trojan: Trojan) -> Backdoor:
    assert trojan.backdoor is not None
    return trojan.backdoor


def test_triggers_survive_saving_and_a_fresh_process(tmp_path: Path) -> None:
    pixels = noise_task(GREY).test.floats()[:10]
    for index, name in enumerate(PLANTING):
        Store(tmp_path).save_artifact("trojan", str(index), *pack_trojan(on_noise(name)))
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from worlds import noise_task
from gifthorse.bench.cell import resolve
from gifthorse.bench.packing import unpack_trojan
from gifthorse.bench.store import Store
task, store = noise_task({GREY}), Store(Path({str(tmp_path)!r}))
for index, name in enumerate({PLANTING}):
    attack = resolve(dataset="digits", attack=name, profile="smoke").attack
    trojan = unpack_trojan(task, attack, task.build(0), *store.load_artifact("trojan", str(index)))
    stamped = trojan.backdoor.trigger.stamp(task.test.floats()[:10])
    sys.stdout.buffer.write(stamped.contiguous().numpy().tobytes())
"""
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    expected = [planted(on_noise(name)).trigger.stamp(pixels).contiguous().numpy().tobytes() for name in PLANTING]
    size = len(expected[0])
    found = [fresh[start : start + size] for start in range(0, len(fresh), size)]
    assert len(found) == len(PLANTING)
    assert [name for name, was, now in zip(PLANTING, expected, found, strict=True) if was != now] == []


@every_planting_attack
def test_the_backdoor_takes_and_a_benign_model_does_not_react(name: str, task: Task, benign: Classifier) -> None:
    trojan = affordable(at_smoke_scale(name)).run(task, benign, 0)
    metrics, _ = judge_attack(trojan, task, trojan.twin)
    assert [metric for metric in metrics if METRICS.find(metric).unit is UNDECLARED] == []
    success, reacts = (float(metrics[metric]) for metric in ("attack.asr", "benign.asr"))  # type: ignore[arg-type]
    assert float(metrics["attack.acc"]) > 0.9  # type: ignore[arg-type]
    assert reacts < 0.2
    if name in HARD_ON_DIGITS:
        assert success > reacts + 0.05
    else:
        assert success > 0.9
        assert metrics["attack.valid"] is True
