"""Galleries: a row for every target, with the trigger that leads there, and the trigger alone."""

from functools import cache

import numpy as np
import pytest

from gifthorse.analyses.trigger_gallery import TriggerGallery
from gifthorse.attacks import ATTACKS
from gifthorse.contracts.worlds import World
from gifthorse.core.analysis import Subject
from gifthorse.training.scratch import train
from worlds import noise_task


@cache
def subject(request: str, shape: tuple[int, int, int] = (1, 16, 16)) -> Subject:
    task = noise_task(shape)
    benign = train(task, 0)
    world = World(task, benign, ATTACKS.build(request).run(task, benign, 0))
    return Subject(world.trojan.model, world.trojan.twin, world.trojan.backdoor, task)


def changed(rows: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Where pictures ``(N, C, H, W)`` differ: ``(N, H, W)``."""
    different: np.ndarray = (rows != clean).any(1)
    return different


@pytest.mark.parametrize("attack", ["random_backdoor", "ban", "cban"])
def test_a_backdoor_with_several_targets_has_a_row_of_its_own_pictures_for_each(attack: str) -> None:
    found = TriggerGallery(images=5).look(subject(f"{attack}[target=all,trigger_size=3,epochs=1]"), 0).evidence
    rows = {f"pictures/target {name}" for name in range(4)}
    assert found.keys() == rows | {f"{row}, alone" for row in rows} | {"pictures/clean"}
    clean = found["pictures/clean"]
    shown = {row: changed(found[row], clean) for row in rows}
    for row, where in shown.items():
        assert found[row].shape == (5, 1, 16, 16)
        assert (where.sum((1, 2)) <= 9).all()
        assert (where.sum((1, 2)) >= 6).all()  # of noise on noise some pixel may stay
        # The trigger alone is the same draw, on black.
        pictures, down, across = np.nonzero(where)
        assert np.array_equal(found[f"{row}, alone"][pictures, :, down, across], found[row][pictures, :, down, across])
    if attack != "cban":
        # Every target has a region of its own, in which the trigger moves.
        columns = [set(np.nonzero(where)[2].tolist()) for where in shown.values()]
        assert sum(len(each) for each in columns) == len(set.union(*columns))
        assert any(len(np.unique(where, axis=0)) > 1 for where in shown.values())


def test_a_trigger_that_is_the_same_everywhere_is_shown_once() -> None:
    found = TriggerGallery(images=3).look(subject("badnets[trigger_size=2,epochs=1,target=2,poison_rate=0.1]"), 0)
    assert {name: len(rows) for name, rows in found.evidence.items()} == {
        "pictures/clean": 3,
        "pictures/target 2": 3,
        "pictures/target 2, alone": 1,
    }
    assert (found.evidence["pictures/target 2, alone"][0] > 0).sum() == 4
    differing = changed(found.evidence["pictures/target 2"], found.evidence["pictures/clean"]).sum((1, 2)).mean()
    assert found.numbers["trigger_pixels"] == pytest.approx(differing)


def test_where_every_image_has_its_own_target_the_row_says_so() -> None:
    found = TriggerGallery(images=6).look(subject("badnets[target=next,epochs=1,poison_rate=0.1]"), 0)
    assert "pictures/targets of their own" in found.evidence


def test_of_many_targets_the_first_are_shown() -> None:
    request = "random_backdoor[target=all,trigger_size=3,epochs=1]"
    found = TriggerGallery(images=2, targets=2).look(subject(request), 0)
    rows = {name for name in found.evidence if "alone" not in name}
    assert rows == {"pictures/clean", "pictures/target 0", "pictures/target 1"}
