"""Whatever kills a command, whenever: the next one continues, and all is as if nothing had happened."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from disturbances import Disturbances, contents, leftovers

QUICK = ["--profile", "smoke", "--training", "standard[epochs=1]", "--threads", "1"]
COMMANDS = {
    "run": ["run", *QUICK, "--attack", "badnets", "--defense", "shrinkpad"],
    "population": [
        *("population", *QUICK, "--attack", "badnets", "--defense", "neuron_inspect"),
        *("--benign", "1", "--trojaned", "2"),
    ],
    "grid": ["grid", *QUICK, "--attack", "none", "--attack", "badnets", "--defense", "none", "--defense", "shrinkpad"],
}


def disturb(folder: Path, arguments: Sequence[str], kills: int) -> tuple[int, int]:
    """Kill a command so often, in a new store once it has ended; compare what it leaves; return kills, and inside."""
    luck, done, inside, rounds = random.Random(1), 0, 0, 0
    # The first process of all waits until torch is imported, which is no part of how long a command runs.
    Disturbances(folder / "first", ["--version"], luck).finish()
    calm = Disturbances(folder / "calm", arguments, luck)
    seconds = calm.finish()
    wanted = contents(calm.store)
    while done < kills:
        rounds += 1
        here = Disturbances(folder / str(rounds), arguments, luck)
        while done + here.kills < kills and here.once(seconds, 8):
            pass
        here.finish()
        assert contents(here.store) == wanted
        assert leftovers(here.store) == []
        done += here.kills
        inside += here.inside
    print(f"{arguments[0]}: {done} kills, {inside} of them inside of writes, {rounds} stores")
    return done, inside


@pytest.mark.parametrize("command", COMMANDS)
def test_a_few_kills(command: str, tmp_path: Path) -> None:
    disturb(tmp_path, COMMANDS[command], 3)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_fifty_kills(command: str, tmp_path: Path) -> None:
    kills, inside = disturb(tmp_path, COMMANDS[command], 50)
    assert kills == 50
    assert 10 <= inside <= 45
