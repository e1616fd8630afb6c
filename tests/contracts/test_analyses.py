"""Promises of every listed analysis, in each of its declared variants; and that broken ones are noticed."""

import re
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from gifthorse.analyses import ANALYSES
from gifthorse.analyses.nsr import Nsr
from gifthorse.bench.cell import resolve
from gifthorse.contracts.analyses import analysis_promises
from gifthorse.contracts.promise import Promise
from gifthorse.contracts.worlds import World
from gifthorse.core.analysis import Analysis, Findings, Subject
from gifthorse.core.errors import RequestError
from worlds import affordable, digits_world, requests


def on_digits(name: str) -> list[Promise]:
    found = resolve(dataset="digits", attack="badnets", analysis=name, profile="smoke").analysis
    assert found is not None
    return analysis_promises(affordable(found), digits_world)


@pytest.mark.parametrize(
    "promise",
    [
        pytest.param(promise, marks=pytest.mark.xdist_group(name), id=f"{name}-{promise.name}")
        for name in requests(ANALYSES)
        for promise in on_digits(name)
    ],
)
def test_keeps_its_promises(promise: Promise) -> None:
    promise()


class Sloppy(Nsr):
    """Looks, and does something on the way that it should not."""

    name = "sloppy"
    sin: ClassVar[str] = ""

    def look(self, subject: Subject, seed: int) -> Findings:
        found = super().look(subject, seed)
        numbers: dict[str, Any] = dict(found.numbers)
        evidence = dict(found.evidence)
        match self.sin:
            case "trains":
                subject.model.head.weight.data += 1
            case "mode":
                subject.model.eval()
            case "hook":
                subject.model.head.register_forward_hook(lambda *_: None)
            case "images":
                subject.task.test.pixels[0] += 1
            case "global random":
                torch.rand(1)
            case "undeclared":
                numbers["no_such_number"] = 1.0
            case "infinite":
                numbers["nsr"] = float("nan")
            case "range":
                numbers["nsr"] = 1.5
            case "kind":
                evidence["scribble/x"] = np.zeros(3)
            case "gaps":
                evidence["profile/x/y"] = np.full(3, np.nan)
            case "shape":
                evidence["points/x/y"] = np.zeros((2, 3))
        return Findings(numbers, evidence)


@pytest.mark.parametrize(
    ("sin", "said"),
    [
        ("trains", "changes a weight"),
        ("mode", "changes a mode"),
        ("hook", "leaves a hook"),
        ("images", "changes the images"),
        ("global random", "global random state"),
        ("undeclared", "is not declared"),
        ("infinite", "nsr is nan"),
        ("range", "out of its range"),
        ("kind", "names nothing that is drawn"),
        ("gaps", "'profile/x/y' is not finite"),
        ("shape", "has the shape"),
    ],
)
def test_a_broken_promise_is_noticed(sin: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sloppy, "sin", sin)
    world = digits_world()
    copied = World(world.task.to("cpu"), world.benign, world.trojan)
    before = world.task.test.pixels.clone()
    found = [promise.look() for promise in analysis_promises(Sloppy(), lambda: copied)]
    world.task.test.pixels[:] = before
    assert any(each.state == "broken" and re.search(said, each.reason) for each in found), found


def test_what_it_cannot_be_asked_is_refused_before_anything_is_trained() -> None:
    class Picky(Nsr):
        name = "picky"

        def check(self, model: Any, task: Any) -> None:
            raise RequestError("picky wants another network")

    found = [promise.look() for promise in analysis_promises(Picky(), digits_world)]
    assert {each.state for each in found} == {"not asked"}
    assert issubclass(Picky, Analysis)
