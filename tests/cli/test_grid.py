"""``gifthorse grid``: one file and one command, that can be stopped however one likes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gifthorse.bench.cell import Cell, resolve
from gifthorse.bench.plan import Node
from gifthorse.bench.runner import Stage
from gifthorse.bench.store import Store
from gifthorse.cli.live import described, names_of
from gifthorse.core.record import Record
from terminal import gifthorse, gifthorse_afresh

TIMES = {"seconds", "created", "peak_memory_mb", "environment"}
STUDY = """
title = "Two attacks"
profile = "smoke"
training = "standard[epochs=1]"
attack = ["none", "badnets", "imc[origin=benign,epochs=1]"]
defense = ["none", "shrinkpad"]
seed = "0..1"

[[exclude]]
attack = "none"
defense = "shrinkpad"
reason = "nothing to see"

[[population]]
attack = "badnets"
defense = "neural_cleanse"
benign = 2
trojaned = 2
"""
COMMAND = [sys.executable, "-c", "from gifthorse.cli.main import main\nif __name__ == '__main__': main()"]


def study(folder: Path, text: str = STUDY) -> str:
    (folder / "study.toml").write_text(text)
    return "study.toml"


def comparable(store: Path) -> dict[str, dict[str, Any]]:
    return {record.id: record.model_dump(exclude=TIMES) for record in Store(store).records()}


def leftovers(store: Path) -> list[str]:
    return [str(path) for name in ("claims", "unfinished") for path in (store / name).glob("*")]


STAMPS = """
profile = "smoke"
training = "standard[epochs=1]"
attack = "badnets"
defense = ["none", "shrinkpad"]
stamp = ["none", "shifted", "amplified[copies=9]"]
sweep.stamp.down = "1..2"
"""


def test_a_grid_varies_the_trigger_on_one_trojan_and_shows_what_each_does(tmp_path: Path) -> None:
    found = gifthorse("grid", study(tmp_path, STAMPS), "--threads", "1", cwd=tmp_path)
    assert "8 cells, 8 to compute; models to train: 1 benign, 1 trojaned" in found.stderr
    assert "8 done" in found.stderr
    records = Store(tmp_path / "gifthorse-runs").records()
    stamps = [record.stamp and (record.stamp["name"], record.stamp.get("down")) for record in records if record.defense]
    assert sorted(stamps, key=str) == [("amplified", None), ("shifted", 1), ("shifted", 2), None]
    assert "attack × stamp" in found.stdout
    for label in ("as planted", "amplified", "shifted[down=1]", "shifted[down=2]"):
        assert label in found.stdout
    request = [
        "--profile",
        "smoke",
        "--attack",
        "badnets",
        "--stamp",
        "none",
        "--stamp",
        "flipped",
        "--stamp",
        "shrunk",
    ]
    planned = gifthorse("grid", *request, "--dry-run", cwd=tmp_path).stdout
    assert "no defense, flipped, seeds 0" in planned
    assert "no defense, shrunk, seeds 0" in planned


def test_a_grid_runs_is_answered_the_second_time_without_torch_and_says_so(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    first = gifthorse_afresh("grid", study(tmp_path), "--threads", "1", cwd=tmp_path, XDG_CACHE_HOME=cache)
    assert "14 cells, 14 to compute; models to train: 2 benign, 2 twin, 5 trojaned" in first.stderr
    assert "neural_cleanse on 2 benign and" in first.stdout
    assert "10 done; store: gifthorse-runs" in first.stderr
    # Without a table of its own a study shows the matrix.
    assert "attack × defense" in first.stdout
    code = "import sys\nfrom gifthorse.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    again = subprocess.run(
        [sys.executable, "-c", code, "grid", "study.toml", "--threads", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("GIFTHORSE_")}
        | {"XDG_CACHE_HOME": cache},
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout + "False\n"
    (kept,) = (tmp_path / "gifthorse-runs" / "studies").iterdir()
    document = json.loads(kept.read_text())
    assert document["text"] == STUDY
    assert len(document["records"]) == 10
    assert len(document["populations"]) == 1


def test_what_is_computed_is_named_by_what_tells_it_from_the_rest() -> None:
    cells = [
        resolve(attack=attack, defense=defense, dataset="digits", profile="smoke", model=model)
        for attack, defense, model in (
            ("badnets[poison_rate=0.01]", "none", "small_cnn"),
            ("badnets[poison_rate=0.1]", "strip[fpr=0.05]", "small_cnn"),
            ("imc", "strip[fpr=0.01]", "small_cnn"),
        )
    ]
    other = resolve(attack="imc", dataset="digits", profile="smoke", model="resnet18")

    def said(stages: Sequence[Stage], among: Sequence[Cell]) -> list[str]:
        return [described(Node(stage, "key", cell), names_of(among)) for stage, cell in zip(stages, among, strict=True)]

    assert said(["record", "trojan", "prepared"], cells) == [
        "badnets[poison_rate=0.01] · no defense · digits, seed 0",
        "badnets[poison_rate=0.1] model · digits, seed 0",
        "what strip[fpr=0.01] prepares · digits",
    ]
    assert said(["record", "benign"], [cells[2], other]) == [
        "imc · strip · digits, small_cnn, seed 0",
        "benign model · digits, resnet18, seed 0",
    ]


def test_the_plan_is_a_tree_with_what_is_there_and_how_long_it_takes(tmp_path: Path) -> None:
    options = ["--threads", "1", "--seed", "0", "--profile", "smoke"]
    planned = gifthorse("grid", study(tmp_path), "--dry-run", *options, cwd=tmp_path)
    assert "Two attacks: 5 cells, 1 population\n" in planned.stdout
    assert "left out, 1 cell: nothing to see" in planned.stdout
    unknown = "2 benign models, 5 trojans, 9 cells, 1 benign twin"
    assert f"no earlier records tell how long these steps take: {unknown}\n" in planned.stdout
    assert not (tmp_path / "gifthorse-runs").exists()
    gifthorse_afresh("grid", study(tmp_path), *options, cwd=tmp_path)
    again = gifthorse_afresh("grid", "study.toml", "--dry-run", *options, cwd=tmp_path)
    assert "everything is in the store" in again.stdout
    more = gifthorse("grid", "study.toml", "--dry-run", "--threads", "1", cwd=tmp_path).stdout
    assert "badnets (2 of 4 in the store)" in more
    assert "about" in more
    assert "by earlier records of the same kind" in more


def test_options_make_a_grid_without_a_file(tmp_path: Path) -> None:
    options = [
        "--attack",
        "none",
        "--attack",
        "badnets",
        "--defense",
        "none",
        "--defense",
        "shrinkpad",
        "--seed",
        "0..1",
    ]
    quick = ["--profile", "smoke", "--training", "standard[epochs=1]", "--threads", "1"]
    found = json.loads(gifthorse("grid", *options, *quick, "--json", cwd=tmp_path).stdout)
    records = [Record.model_validate(each) for each in found["records"]]
    assert len(records) == 8
    assert {(record.attack["name"], record.seed) for record in records} == {
        (attack, seed) for attack in ("none", "badnets") for seed in (0, 1)
    }


def test_every_seed_has_another_target_and_a_table_averages_over_them(tmp_path: Path) -> None:
    text = """
profile = "smoke"
attack = "badnets"
training = "standard[epochs=1]"
seed = "3..4"
vary_target = true

[[table]]
title = "All of them"
columns = "metric"
metric = ["attack.asr", "attack.cad"]
"""
    found = gifthorse("grid", study(tmp_path, text), "--threads", "1", cwd=tmp_path).stdout
    assert found.startswith("All of them\n")
    assert "n = 2" in found
    records = list(Store(tmp_path / "gifthorse-runs").records())
    assert [record.attack["target"] for record in sorted(records, key=lambda record: record.seed)] == [3, 4]


def test_a_cell_that_a_run_computed_is_answered_in_a_grid(tmp_path: Path) -> None:
    quick = ["--profile", "smoke", "--training", "standard[epochs=1]", "--threads", "1", "--attack", "badnets"]
    gifthorse_afresh("run", *quick, cwd=tmp_path)
    assert "everything is in the store" in gifthorse_afresh("grid", *quick, "--dry-run", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a grid needs a file"),
        (["missing.toml"], "cannot read missing.toml: No such file"),
        (["study.toml", "--attack", "imc"], "--attack: study.toml says that; only --seed and --profile replace it"),
        (["--attack", "badnets", "--seed", "4..0"], "--seed: the range '4..0' is empty"),
        (["--attack", "badnetz", "--seed", "0"], "no attack is called 'badnetz'"),
        (["--attack", "badnets[poison_rate=3]"], "poison_rate"),
        (["--attack", "badnets", "--ray", "local", "--jobs", "2"], "--ray and --jobs both say who computes"),
        (["--attack", "badnets", "--debug", "--jobs", "2"], "--debug raises in this process"),
    ],
)
def test_a_wrong_grid_is_clear_lines_exit_code_2_and_nothing_written(
    arguments: Sequence[str], said: str, tmp_path: Path
) -> None:
    study(tmp_path)
    found = gifthorse("grid", *arguments, cwd=tmp_path, check=2)
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "gifthorse-runs").exists()


def test_values_out_of_range_are_named_with_their_lines(tmp_path: Path) -> None:
    text = 'attack = [\n  "badnets[poison_rate=3]",\n  "badnets[target=10]",\n]\ndefense = "strip[fpr=2]"\n'
    lines = gifthorse("grid", study(tmp_path, text), cwd=tmp_path, check=2).stderr.splitlines()
    assert any("study.toml, line 2" in line and "poison_rate" in line for line in lines), lines
    assert any("study.toml, line 5" in line and "fpr" in line for line in lines), lines


def test_a_failed_cell_is_shown_at_once_and_does_not_stop_the_others(tmp_path: Path) -> None:
    options = ["--attack", "badnets", "--attack", "none", "--profile", "smoke", "--threads", "1"]
    found = gifthorse("grid", *options, "--training", "standard[epochs=1,lr=1000000.0]", cwd=tmp_path, check=4)
    assert "failed: " in found.stderr
    assert "diverged" in found.stderr
    assert "FloatingPointError" in found.stderr
    assert "whole traceback: gifthorse-runs/logs/" in found.stderr
    assert "2 failed" in found.stderr
    (log, *_) = (tmp_path / "gifthorse-runs" / "logs").iterdir()
    assert "Traceback" in log.read_text()
    raised = gifthorse(
        "grid", *options, "--training", "standard[epochs=1,lr=1000000.0]", "--debug", cwd=tmp_path, check=1
    )
    assert "FloatingPointError" in raised.stderr.splitlines()[-1]


def started(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, "grid", "study.toml", "--threads", "2", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heeding,
    )


def _heeding() -> None:
    """Be told by the terminal, though whoever started the tests may have been told not to be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_grid_that_was_stopped_leaves_no_process_and_continues(stop: signal.Signals, tmp_path: Path) -> None:
    study(tmp_path, STUDY.replace("epochs=1]", "epochs=3]"))
    process = started(tmp_path, "--jobs", "2")
    store, deadline = tmp_path / "gifthorse-runs", time.monotonic() + 200
    while not list(store.glob("artifacts/trojan/*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    if stop in (signal.SIGINT, signal.SIGHUP):
        # Terminals tell all processes.
        os.killpg(process.pid, stop)
    else:
        process.send_signal(stop)
    _, err = process.communicate(timeout=120)
    # Whoever computed for it notices.
    gone = time.monotonic() + 30
    while _group_lives(process.pid) and time.monotonic() < gone:
        time.sleep(0.1)
    if stop != signal.SIGKILL:
        assert process.returncode == 130, err
        assert "run the same command again to continue" in err
        assert "Traceback" not in err
    assert not _group_lives(process.pid)
    # Evidence is written just before its record: of a process that was killed between the two it is written again.
    recorded = {path.stem for path in store.glob("records/*")}
    kept = store.glob("artifacts/*/*.safetensors")
    kept = (path for path in kept if path.parent.name != "evidence" or path.stem in recorded)
    trained = {path: path.stat().st_mtime_ns for path in kept}
    # Only a killed one leaves claims behind, which several processes may want.
    jobs = "2" if stop == signal.SIGKILL else "1"
    again = gifthorse("grid", "study.toml", "--jobs", jobs, "--threads", jobs, cwd=tmp_path)
    assert "done" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert len(list(store.glob("records/*"))) == 14
    assert leftovers(store) == []


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_four_processes_and_fifty_kills_give_what_one_undisturbed_process_gives(tmp_path: Path) -> None:
    """Every model is trained once, and nothing is left over."""
    text = STUDY.replace('seed = "0..1"', 'seed = "0..5"')
    (tmp_path / "calm").mkdir()
    gifthorse("grid", study(tmp_path / "calm", text), "--threads", "1", cwd=tmp_path / "calm")
    study(tmp_path, text)
    store, first = tmp_path / "gifthorse-runs", dict[Path, int]()
    luck, kills = random.Random(0), 0
    running = [started(tmp_path, "--threads", "1") for _ in range(4)]
    while any(process.poll() is None for process in running) or kills < 50:
        until = time.monotonic() + luck.uniform(0.5, 3)
        while time.monotonic() < until:
            # Evidence is written before its record, and again by whoever finishes that.
            models = (path for kind in ("benign", "twin", "trojan") for path in store.glob(f"artifacts/{kind}/*"))
            first = {path: path.stat().st_ino for path in models} | first
            time.sleep(0.05)
        place = luck.randrange(4)
        if kills < 50:
            running[place].kill()
            running[place].communicate()
            running[place] = started(tmp_path, "--threads", "1")
            kills += 1
    for process in running:
        process.communicate()
    assert [process.returncode for process in running] == [0] * 4
    assert comparable(store) == comparable(tmp_path / "calm" / "gifthorse-runs")
    names = {path.name for path in (tmp_path / "calm" / "gifthorse-runs").glob("artifacts/*/*")}
    assert {path.name for path in store.glob("artifacts/*/*")} == names
    # A file that was written twice is another file by the same name.
    assert {path: path.stat().st_ino for path in first} == first
    Store(store).sweep()
    assert leftovers(store) == []
