"""A package outside of gifthorse adds one method of each kind, each in one file, and the command line runs them."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from gifthorse.core.record import Record

ROOT = Path(__file__).parent
PACKAGE = ROOT / "extension"
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
ENTRIES: dict[str, dict[str, str]] = PROJECT["entry-points"]
TOYS = sorted(path for path in (PACKAGE / "src/gifthorse_toys").glob("*.py") if path.stem != "__init__")

every_toy = pytest.mark.parametrize("toy", TOYS, ids=lambda path: path.stem)
pytestmark = pytest.mark.xdist_group("extension")

SCRATCH = "poison_rate=0.1,origin=scratch"
CELLS = {
    "wave": ["--attack", f"toy_wave[{SCRATCH}]"],
    "talker": ["--attack", "toy_talker[poison_rate=0.4,origin=scratch]"],
    "shaken": ["--attack", "toy_shaken[base=badnets[trigger_position=bottom_right]]"],
    "twin of shaken": [
        "--attack",
        "none[trained=mixed_twin[attack=toy_shaken[base=badnets[trigger_position=bottom_right]]]]",
    ],
    "plain": ["--attack", "badnets", "--defense", "strip"],
    "evasive": ["--attack", f"toy_evasive[{SCRATCH},against=strip]", "--defense", "strip"],
    "not evadable": ["--attack", "toy_evasive[against=finetuning]"],
    "not wrappable": ["--attack", "toy_shaken[base=esb]"],
    "selective": ["--attack", f"toy_selective[{SCRATCH}]"],
    "spectral": ["--attack", "badnets[mixing=dataset,poison_rate=0.05]", "--defense", "toy_spectral"],
    "no data": ["--attack", "badnets", "--defense", "toy_spectral"],
    "teacher": ["--attack", "badnets", "--defense", "toy_teacher"],
    "pipeline": ["--attack", "badnets", "--defense", "toy_pipeline[defenses=[neural_cleanse,toy_teacher]]"],
    "saliency_fill": ["--attack", "badnets", "--defense", "toy_saliency_fill"],
    "locator": ["--attack", "badnets", "--defense", "toy_locator"],
    "nothing to locate": ["--attack", "none", "--defense", "toy_locator"],
    "perceptron": ["--attack", "badnets", "--model", "toy_perceptron[hidden=48]"],
    "stripes": ["--attack", "badnets", "--dataset", "toy_stripes"],
}
RUN_ALL = """
import contextlib, io, json, sys
import click, torch
from gifthorse.cli.main import cli

torch.set_num_threads(1)
said = {}
for name, request in json.load(sys.stdin).items():
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            cli.main(["run", "--dataset", "digits", "--profile", "smoke", "--json", *request], standalone_mode=False)
    except ValueError as error:
        printed.write(str(error))
    except SystemExit:
        pass
    said[name] = printed.getvalue()
print(json.dumps(said))
"""


@dataclass
class Installed:
    """The package as pip leaves it, and an empty folder to work in."""

    path: Path
    folder: Path

    def python(self, *arguments: str, given: str = "") -> str:
        search = [str(self.path), str(PACKAGE / "src"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search)), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, capture_output=True, text=True, env=environment, input=given
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def gifthorse(self, *arguments: str) -> str:
        return self.python("-c", "from gifthorse.cli.main import main; main()", *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """What pip writes is written by hand: there may be no network, and the environment stays as it is."""
    path = tmp_path_factory.mktemp("site")
    about = path / f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}.dist-info"
    about.mkdir()
    header = f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n"
    (about / "METADATA").write_text(header)
    groups = [[f"[{group}]", *(f"{name} = {value}" for name, value in each.items())] for group, each in ENTRIES.items()]
    (about / "entry_points.txt").write_text("\n".join(line for group in groups for line in group))
    return Installed(path, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def said(installed: Installed) -> dict[str, str]:
    """What the command line answers to each request, all in one process: the benign model is trained once."""
    answers: dict[str, str] = json.loads(installed.python("-c", RUN_ALL, given=json.dumps(CELLS)))
    return answers


def metrics_of(said: dict[str, str], name: str) -> dict[str, float]:
    record = Record.from_json(said[name])
    assert record.status == "done", record.reason
    return {key: value for key, value in record.metrics.items() if isinstance(value, float | int)}


def test_each_toy_is_one_file_and_one_line() -> None:
    listed = {name: value for group in ENTRIES.values() for name, value in group.items()}
    assert sorted(listed) == [toy.stem for toy in TOYS]
    assert all(value.partition(":")[0] == f"gifthorse_toys.{name}" for name, value in listed.items())
    assert {"gifthorse", *(f"gifthorse.{kind}" for kind in ("attacks", "defenses", "models", "datasets"))} == set(
        ENTRIES
    )


def test_the_readme_says_how_long_each_is() -> None:
    rows = re.findall(r"^\|.*\| `(\w+)\.py` \| (\d+) \|$", (PACKAGE / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == [(toy.stem, str(len(toy.read_text().splitlines()))) for toy in TOYS]


@every_toy
def test_imports_public_names_only(toy: Path) -> None:
    tree = ast.parse(toy.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    allowed = {"gifthorse", "torch", "pydantic", *sys.stdlib_module_names}
    assert {name.partition(".")[0] for name in names} <= allowed
    assert [name for name in names if re.search(r"(^|\.)_", name)] == []
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    # A named tuple's own method.
    assert {name for name in attributes if re.match("_[^_]", name)} <= {"_replace"}


def test_lists_show_them(installed: Installed) -> None:
    assert "toy_talker" in installed.gifthorse("list", "attacks")
    everything = installed.gifthorse("list")
    assert set(re.findall(r"toy_\w+", everything)) == {
        *(f"toy_{toy.stem}" for toy in TOYS),
        "toy_purification",
        "toy_location",
    }
    assert "defense.located" in installed.gifthorse("list", "metrics", "located", "--json")
    for kind in ("attacks", "defenses", "models", "datasets"):
        for about in json.loads(installed.gifthorse("list", kind, "--json")):
            own = not about["name"].startswith("toy_")
            assert about["origin"] == ("gifthorse" if own else "gifthorse_toys")


def test_the_promises_are_asked_of_one_by_its_class(installed: Installed) -> None:
    found = installed.gifthorse("check", "gifthorse_toys.wave:WaveAttack[periods=3]")
    assert "toy_wave[periods=3]" in found
    assert found.count("kept") > 10


def test_a_data_poisoning_attack_without_a_patch(said: dict[str, str]) -> None:
    metrics = metrics_of(said, "wave")
    assert metrics["attack.asr"] > 0.9
    assert metrics["benign.asr"] < 0.2
    fields = Record.from_json(said["wave"]).attack
    assert not [field for field in fields if field.startswith("trigger_")]


def test_a_generator_with_ten_targets(said: dict[str, str]) -> None:
    metrics, record = metrics_of(said, "talker"), Record.from_json(said["talker"])
    assert record.metrics["attack.targets"] == list(range(10))
    # Patterns as faint as this take only where the generator has learned.
    assert metrics["attack.asr"] > 0.9
    assert metrics["attack.asr_min"] > 0.5
    assert metrics["benign.asr"] < 0.1


def test_a_wrapper_keeps_its_bases_success_and_its_twin_undergoes_the_same(said: dict[str, str]) -> None:
    metrics, record = metrics_of(said, "shaken"), Record.from_json(said["shaken"])
    assert record.attack["base"]["name"] == "badnets"
    assert record.attack["base"]["trigger_position"] == "bottom_right"
    assert record.attack["base"]["origin"] == "scratch"
    assert metrics["attack.asr"] > 0.9
    assert abs(metrics["attack.cad"]) < 0.05
    # Training from scratch shares the benign model as twin, unless its images undergo something.
    assert record.seconds["twin"] > 0
    assert "twin" not in Record.from_json(said["plain"]).seconds
    assert "'esb' is no StagedAttack" in said["not wrappable"]
    # Its twin is nobody else's, and can be had alone: what a population judges.
    assert metrics_of(said, "twin of shaken")["attack.acc"] == metrics["attack.twin_acc"]


def test_an_adaptive_attack_hides_from_the_defense_that_it_was_trained_against(said: dict[str, str]) -> None:
    plain, adaptive = metrics_of(said, "plain"), metrics_of(said, "evasive")
    assert adaptive["attack.asr"] > 0.8
    assert plain["defense.auroc"] > 0.9
    assert adaptive["defense.auroc"] < plain["defense.auroc"] - 0.2
    assert "offers an attacker nothing to train against" in said["not evadable"]


def test_a_source_specific_attack_leaks_little(said: dict[str, str]) -> None:
    metrics = metrics_of(said, "selective")
    assert metrics["attack.asr"] > 0.8
    assert metrics["attack.leakage"] < 0.25


def test_a_filter_of_training_sets_is_better_than_chance(said: dict[str, str]) -> None:
    metrics = metrics_of(said, "spectral")
    assert metrics["defense.tpr"] > metrics["defense.fpr"] + 0.2
    assert metrics["defense.auroc"] > 0.7
    assert metrics["defense.asr"] < metrics["attack.asr"]
    assert "delivered a model alone" in str(Record.from_json(said["no data"]).reason)


def test_an_eraser_and_a_pipeline_lower_the_success_and_what_is_prepared_is_stored(said: dict[str, str]) -> None:
    alone, pipeline = metrics_of(said, "teacher"), metrics_of(said, "pipeline")
    assert alone["defense.asr"] < alone["attack.asr"] - 0.1
    assert pipeline["defense.asr"] < 0.2
    assert min(alone["defense.acc"], pipeline["defense.acc"]) > 0.9
    assert Record.from_json(said["teacher"]).seconds["prepared"] > 0


def test_a_reform_with_gradients_lowers_the_success(said: dict[str, str]) -> None:
    metrics = metrics_of(said, "saliency_fill")
    assert metrics["defense.asr"] < metrics["attack.asr"] - 0.3
    assert metrics["defense.acc"] > 0.8


def test_a_new_kind_of_outcome_is_judged(said: dict[str, str]) -> None:
    assert metrics_of(said, "locator")["defense.located"] > 0.7
    assert "defense.located" not in metrics_of(said, "nothing to locate")


def test_an_architecture_and_a_data_set(said: dict[str, str]) -> None:
    for name in ("perceptron", "stripes"):
        metrics = metrics_of(said, name)
        assert metrics["benign.acc"] > 0.9
        assert metrics["attack.asr"] > 0.8
    assert Record.from_json(said["perceptron"]).model["hidden"] == 48


def test_the_report_has_their_families_and_metrics(installed: Installed, said: dict[str, str]) -> None:
    installed.gifthorse("report", "--out", "report.html")
    report = (installed.folder / "report.html").read_text()
    assert "Training set purification" in report
    assert "pixels located" in report


def test_they_keep_the_contracts_of_listed_methods(installed: Installed) -> None:
    """The contract tests run over whatever is listed; smoke settings of a package are its variants."""
    chosen = "toy_ and (same_seed or leaves_ or saved_and_restored or round_trips or cites_its)"
    small = "scratch or shaken or test_defenses or test_every_method"
    files = [str(ROOT / "contracts" / f"test_{name}.py") for name in ("attacks", "defenses", "every_method")]
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT.parent)]
    config = ["-c", str(ROOT.parent / "pyproject.toml")]
    found = installed.python("-m", "pytest", *options, *config, "-k", f"{chosen} and ({small})", *files)
    passed = re.search(r"(\d+) passed", found)
    assert passed is not None
    assert int(passed[1]) > 40
