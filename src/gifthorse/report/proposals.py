"""What a paper proposes and never ran: whoever reads a number of it has no published one to compare it with."""

from collections.abc import Iterator

from gifthorse.core.command import Fields
from gifthorse.core.record import Record, name_of

_AEGIS, _DYNAMIC = (
    f"proposed by its paper, not run there ({place})" for place in ("AEGIS, V-C", "Dynamic Backdoors, 4.6")
)

_OBJECT = {"name": "badnets", "mixing": "dataset", "trigger_position": "random", "trigger_size": 5}
"""What ``aegis_natural`` is: an object in the scenes that the training images are of."""


def proposed(record: Record) -> str | None:
    """Return that a record's attack, or how its trigger was shown, was proposed only, and where; else ``None``."""
    return proposed_attack(record) or proposed_stamp(record)


def proposed_attack(record: Record) -> str | None:
    """Return the same of the attack alone."""
    return _AEGIS if any(map(_is_aegis_proposal, _with_bases(record.attack))) else None


def proposed_stamp(record: Record) -> str | None:
    """Return the same of how the trigger was shown alone."""
    return _DYNAMIC if record.stamp is not None and name_of(record.stamp) == "requeried" else None


def _is_aegis_proposal(attack: Fields) -> bool:
    against = attack.get("against") or ()
    return (
        name_of(attack) == "multimodal_clean"
        or attack.get("train_share", 1.0) < 1
        or all(attack.get(field) == value for field, value in _OBJECT.items())
        or any(name_of(defense) == "aegis" for defense in against)
    )


def _with_bases(attack: Fields) -> Iterator[Fields]:
    """Yield an attack and those that it wraps."""
    yield attack
    if attack.get("base"):
        yield from _with_bases(attack["base"])
