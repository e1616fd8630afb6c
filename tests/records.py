"""Hand-made records: what the tables, the store's commands and the reports are tested on."""

from collections.abc import Sequence
from itertools import count
from typing import Any

from gifthorse.core.record import Member, Population, Record, Review
from gifthorse.core.scan import Images, Inspection, Scan

ATTACK = {"attack.acc": 0.97, "attack.asr": 0.99, "attack.cad": 0.01, "attack.valid": True}
BADNETS = {"name": "badnets", "target": 1, "poison_rate": 0.1}
FAMILY_OF = {
    "shrinkpad": "reformation",
    "strip": "filtering",
    "fine_pruning": "sanitization",
    "neural_cleanse": "inspection",
}
SHRINKPAD, STRIP, PRUNING, CLEANSE = ({"name": name} for name in FAMILY_OF)
_NUMBERS = count()


def bare(**changes: Any) -> Record:
    """A record of a finished cell without a number, BadNets on digits without a defense."""
    number = next(_NUMBERS)
    values: dict[str, Any] = {
        "id": f"{number:024x}",
        "status": "done",
        "dataset": {"name": "digits", "size": 16},
        "data_digest": "d" * 24,
        "model": {"name": "small_cnn", "width": 16},
        "training": {"name": "standard", "epochs": 20},
        "profile": "laptop",
        "seed": 0,
        "attack": BADNETS,
        "defense": None,
        "environment": {
            "gifthorse": "0.1.0",
            "commit": None,
            "dirty": None,
            "python": "3.11",
            "torch": "2",
            "device": "cpu",
            "threads": 1,
        },
        "created": f"2026-01-01T00:00:00.{number:09}+00:00",
        **changes,
    }
    defense = values["defense"]
    return Record.model_validate({"family": defense and FAMILY_OF.get(defense["name"], "sanitization")} | values)


def record(**changes: Any) -> Record:
    """A record with the numbers of an attack that took, to which ``metrics`` are added; none where it failed."""
    failed = changes.get("status") == "failed"
    return bare(**changes | {"metrics": {} if failed else ATTACK | changes.get("metrics", {})})


def model(index: float, **values: Any) -> Member:
    """A model of a population, by the index that the detector gave it."""
    return Member.model_validate({"id": f"member{next(_NUMBERS)}", "seed": 0, "index": index, **values})


def population(benign: Sequence[Member], trojaned: Sequence[Member], **changes: Any) -> Population:
    """A population of these models, Neural Cleanse on BadNets with another target each."""
    shared = {"dataset", "model", "training", "profile", "attack", "environment", "created"}
    values: dict[str, Any] = {
        **bare().model_dump(include=shared),
        "id": f"population{next(_NUMBERS)}",
        "varied_target": True,
        "defense": CLEANSE,
        "seed": 0,
        "index": "defense.index",
        "n_benign": len(benign),
        "benign": benign,
        "n_trojaned": len(trojaned),
        "trojaned": trojaned,
    }
    return Population.model_validate(values | changes)


def repaired(asr: float, seed: int = 0, **changes: Any) -> Record:
    """A record of a defense that changes inputs, or the model."""
    return record(**{"defense": SHRINKPAD, "seed": seed, "metrics": {"defense.asr": asr, "defense.acc": 0.9}} | changes)


def benign(seed: int = 0, **changes: Any) -> Record:
    """A record of a benign model: nothing was planted, so it has no success and took neither way."""
    found = record(**{"attack": {"name": "none"}, "seed": seed} | changes)
    metrics = {
        name: value for name, value in found.metrics.items() if name in ("attack.acc", *changes.get("metrics", {}))
    }
    return found.model_copy(update={"metrics": metrics})


def review() -> Review:
    """What a person made of three flagged images."""
    return Review(
        id=f"{next(_NUMBERS):024x}",
        rejected=[1, 2],
        pictures="e" * 64,
        stamped=2,
        stamped_rejected=1,
        clean=1,
        clean_rejected=1,
        created="2026-01-01T00:00:00.000+00:00",
    )


def scan() -> Scan:
    """A model that somebody delivered, in which one inspector found nothing."""
    return Scan(
        id=f"{next(_NUMBERS):024x}",
        command="gifthorse scan model.pt",
        model={"file": "model.pt", "architecture": {"name": "small_cnn"}},
        images=Images(source="photographs", digest="d" * 24, count=10, labelled=False, shape=(1, 16, 16)),
        class_names=["zero", "one", "two"],
        seed=0,
        inspections=(Inspection(defense=CLEANSE, status="done", index_name="defense.index", index=1.0, threshold=2.0),),
        suspicious=False,
        blind_spots=("triggers of the whole image",),
        seconds=1.0,
        environment=bare().environment,
        created="2026-01-01T00:00:00.000+00:00",
    )
