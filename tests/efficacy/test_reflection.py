"""Do the reflections that the ranking puts first make a better backdoor than those it puts last?"""

import torch

from gifthorse.attacks.data.refool import Refool
from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import predict
from gifthorse.core.trojan import Backdoor
from gifthorse.metrics.functional import attack_success_rate
from gifthorse.planting.mixing import BatchMixing
from gifthorse.planting.reflections import RANKING_RATE, showing
from gifthorse.training.loop import fit
from gifthorse.training.scratch import train
from worlds import digits_task


def test_the_first_candidates_beat_the_last() -> None:
    """Over the whole image, re-trained for a few epochs, on test images that the ranking never saw."""
    task = digits_task()
    attack = resolve(dataset="digits", attack="refool[image_weight=0.75]", profile="smoke").attack
    assert isinstance(attack, Refool)
    goal = attack.goal(task)
    success: dict[str, list[float]] = {"first": [], "last": []}
    for seed in range(2):
        benign = train(task, seed)
        candidates = attack.candidate_reflections(task, seed)
        order = attack.rank(candidates, task, benign, seed)
        for name, chosen in (("first", order[:4]), ("last", order[-4:])):
            trigger, random = showing(candidates, chosen), torch.Generator().manual_seed(0)
            model = benign.clone()
            recipe = task.recipe.model_copy(update={"epochs": 4, "lr": 0.01, "schedule": "cosine"})
            fit(model, task.train, recipe, 1, mix=BatchMixing(Backdoor(trigger, goal), RANKING_RATE, random))
            logits = predict(model, trigger.stamp(task.test.floats()))
            targets = goal.targets(task.test.labels)
            success[name].append(attack_success_rate(logits, task.test.labels, targets))
    assert sum(success["first"]) / 2 > sum(success["last"]) / 2 + 0.1, success
