"""Do filters of training sets find poisoned digits, and is the backdoor gone from what is trained on the rest?"""

from functools import cache
from typing import Any

import pytest
import torch

from gifthorse.attacks.no_attack import NoAttack
from gifthorse.bench.cell import resolve
from gifthorse.bench.views import view_of
from gifthorse.core.defense import Defense
from gifthorse.core.outcomes import Outcome, SuspectSamples
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import SuspectDataView
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.training_set_filtering.spectral_signatures import SpectralSignatures
from gifthorse.metrics.attacks import judge_attack
from gifthorse.metrics.functional import auroc
from gifthorse.metrics.judge import judge_defense
from gifthorse.metrics.stamped import Metrics
from gifthorse.training.scratch import FromScratch, train
from worlds import digits_task

pytestmark = pytest.mark.xdist_group("training set filters")  # one process: models are trained once
SCREENS = ("activation_clustering_screen", "spectral_signatures_screen")
FILTERS = ("activation_clustering", "spectral_signatures")


@cache
def planted(rate: float, seed: int) -> tuple[Task, Trojan, Metrics]:
    """BadNets on digits by the laptop profile, in the data set alone; no image is stamped at a rate of 0."""
    task = digits_task("laptop")
    benign = train(task, seed)
    if rate == 0:
        trojan = NoAttack().run(task, benign, seed)
    else:
        request = f"badnets[mixing=dataset,poison_rate={rate}]"
        trojan = resolve(dataset="digits", attack=request, profile="laptop").attack.run(task, benign, seed)
    return task, trojan, judge_attack(trojan, task, trojan.twin)[0]


def seen_by(defense: Defense[Any], trojan: Trojan, task: Task) -> SuspectDataView:
    view = view_of(defense, trojan, task)
    assert isinstance(view, SuspectDataView)
    return view


@cache
def filtered(name: str, rate: float, seed: int) -> dict[str, float]:
    task, trojan, attack = planted(rate, seed)
    if name == "guess":
        outcome: Outcome = guessing(seen_by(SpectralSignatures(), trojan, task), 0.15)
    else:
        defense = resolve(dataset="digits", defense=name, profile="laptop").defense
        assert defense is not None
        outcome = defense.defend(seen_by(defense, trojan, task), 0)
    found, _ = judge_defense(outcome, trojan, task, attack, 0)
    return {key.partition(".")[2]: value for key, value in found.items() if isinstance(value, int | float)}


def guessing(view: SuspectDataView, share: float) -> SuspectSamples:
    """Scores at random, and as many images removed as spectral signatures removes."""
    scores = torch.rand(len(view.suspect), generator=torch.Generator().manual_seed(0))
    removed = scores > 1 - share
    return SuspectSamples(scores, removed, view.trainer.train(view.suspect.take(~removed), 0))


def ranked(name: str, seed: int) -> float:
    """AUROC where one image in twenty is stamped; nothing is trained anew."""
    task, trojan, _ = planted(0.05, seed)
    defense = DEFENSES.build(name)
    view = seen_by(defense, trojan, task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FromScratch, "train", lambda *_: trojan.model)
        outcome = defense.defend(view, 0)
    assert isinstance(outcome, SuspectSamples)
    assert trojan.delivered is not None
    stamped = trojan.delivered.stamped
    return float(auroc(outcome.scores[~stamped], outcome.scores[stamped]))


@pytest.mark.parametrize("name", FILTERS)
def test_poisoned_images_rank_before_clean_ones(name: str) -> None:
    """One image in twenty is stamped, which is a third of the target class: more than the published rules expect."""
    found = [ranked(name, seed) for seed in (0, 1)]
    assert min(found) > 0.65
    assert sum(found) / 2 > 0.75


@pytest.mark.parametrize("name", FILTERS)
def test_most_poisoned_images_are_removed_and_the_backdoor_with_them(name: str) -> None:
    """One image in fifty is stamped. How many clean ones go as well is what the published rules cost."""
    before = planted(0.02, 1)[2]["attack.asr"]
    assert isinstance(before, float)
    assert before > 0.9
    found = filtered(name, 0.02, 1)
    assert found["tpr"] > 0.6
    assert found["tpr"] > 4 * found["fpr"]
    assert found["asr"] < 0.5
    assert found["cad"] < 0.1


def test_removing_as_many_images_by_chance_leaves_the_backdoor() -> None:
    found = filtered("guess", 0.02, 1)
    assert abs(found["auroc"] - 0.5) < 0.15
    assert found["tpr"] < 0.4
    assert found["asr"] > 0.7


@pytest.mark.parametrize("name", FILTERS)
def test_what_is_removed_of_a_clean_set_costs_little_accuracy(name: str) -> None:
    found = filtered(name, 0, 0)
    assert found["removed"] < 0.16
    assert found["cad"] < 0.1


@pytest.mark.parametrize("name", SCREENS)
def test_inputs_with_the_trigger_lie_where_the_poisoned_training_images_do(name: str) -> None:
    found = filtered(name, 0.05, 1)
    assert found["auroc"] > 0.8
    assert found["tpr"] > 0.4
    assert found["fpr"] < 0.15
