"""MNTD on digits: what shadow models teach holds for models that the defender did not train."""

from dataclasses import replace

import pytest

from gifthorse.bench.cell import resolve
from gifthorse.bench.views import materials_of, view_of
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import ModelView
from gifthorse.defenses.inspection.mntd import Mntd
from gifthorse.training.scratch import train


@pytest.mark.slow
def test_blended_backdoors_score_above_every_benign_model(task: Task) -> None:
    method = resolve(dataset="digits", defense="mntd[shadows=40,validation=10]").defense
    attack = resolve(dataset="digits", attack="blended").attack
    assert isinstance(method, Mntd)
    prepared = method.prepare(materials_of(method, task), 0)
    # Accuracy must not tell the shadow models apart, and these have to learn their triggers.
    assert prepared["accuracy"].mean() > 0.88
    assert abs(float(prepared["accuracy"].mean() - prepared["trojaned_accuracy"].mean())) < 0.04
    assert prepared["trojaned_success"].mean() > 0.85
    index: dict[str, list[float]] = {"benign": [], "trojaned": []}
    for seed in range(3):
        benign = train(task, seed)
        planted = attack.run(task, benign, seed)
        for kind, trojan in (("benign", Trojan(benign, benign, None, None)), ("trojaned", planted)):
            view = view_of(method, trojan, task)
            assert isinstance(view, ModelView)
            index[kind].append(method.defend(replace(view, prepared=prepared), 0).index)
    assert min(index["trojaned"]) > max(index["benign"])
