"""What must stay true of the whole: exports, docstrings, light imports, and that the README tells the truth."""

import ast
import importlib
import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gifthorse
import terminal
from gifthorse.models.small_cnn import SmallCnn

ROOT = Path(__file__).parents[1]
MODULES = sorted(module.name for module in pkgutil.walk_packages(gifthorse.__path__, "gifthorse."))


def test_every_exported_name_exists_and_is_the_one_that_type_checkers_see() -> None:
    tree = ast.parse(Path(gifthorse.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert sorted(declared) == gifthorse.__all__ == dir(gifthorse)
    for name, module in declared.items():
        assert getattr(gifthorse, name) is getattr(importlib.import_module(str(module)), name)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        gifthorse.nope  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, gifthorse, gifthorse.cli.main; print({'torch', 'numpy', 'sklearn', 'rich'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, name
    for key, value in vars(module).items():
        public = not key.startswith("_") and getattr(value, "__module__", None) == name
        if public and (inspect.isclass(value) or inspect.isfunction(value)):
            assert inspect.getdoc(value), f"{name}.{key}"


def test_no_source_unpickles() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        imported = re.findall(
            r"^\s*(?:import|from) (pickle|dill|joblib|cloudpickle|shelve)\b", path.read_text(), re.MULTILINE
        )
        assert not imported, path
        for name, safe in loads(ast.parse(path.read_text())):
            assert safe, f"{path}: {name}"
            assert name == "torch.load", f"{path}: {name}"
            assert path.relative_to(ROOT / "src" / "gifthorse").as_posix() == "checkpoints/reading.py"


def loads(tree: ast.AST) -> list[tuple[str, bool]]:
    """Return every way in which code gets at torch's or numpy's loaders, and whether it is a safe call."""
    safe = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
    }
    mentioned = [
        (ast.unparse(node), id(node) in safe)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.fullmatch(r"(torch|np|numpy)\b.*\.load", ast.unparse(node))
    ]
    imported = [
        (f"from {node.module} import {name.name}", False)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and re.match(r"(torch|numpy)\b", node.module or "")
        for name in node.names
        if name.name == "load"
    ]
    return mentioned + imported


@pytest.mark.parametrize(
    ("code", "safe"),
    [
        ("torch.load(file, weights_only=True)", True),
        ("torch.load(file)", False),
        ("torch.load(file, weights_only=False)", False),
        ("torch.load(file, weights_only=flag)", False),
        ("load = torch.load", False),
        ("torch.jit.load(file)", False),
        ("from torch.serialization import load", False),
        ("np.load(file, allow_pickle=True)", False),
    ],
)
def test_an_unsafe_load_is_found(code: str, safe: bool) -> None:
    ((_, found),) = loads(ast.parse(code))
    assert found is safe


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def deliver_a_model(folder: Path) -> None:
    """Write what the scan in the README is handed: an untrained network, and images of three classes."""
    for number in range(12):
        (folder / f"photographs/{number % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(
            folder / f"photographs/{number % 3}/{number}.png"
        )
    torch.save(SmallCnn().build((3, 8, 8), 3, 0).network.state_dict(), folder / "model.pt")


def test_the_readmes_commands_run_as_printed(tmp_path: Path) -> None:
    """The make targets are run by whoever runs the tests; the others here, one after another."""
    commands = readme_commands()
    assert commands[:2] == ["make quickstart", "make test"]
    (tmp_path / "studies").symlink_to(ROOT / "studies")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    deliver_a_model(tmp_path)
    for command in commands[2:]:
        program, *arguments = shlex.split(command)
        assert program == "gifthorse"
        done = terminal.gifthorse(*arguments, cwd=tmp_path, check=None)
        fine = (0, 3) if arguments[0] == "scan" else (0,)
        assert done.returncode in fine, f"{command}: {done.stderr}"
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asr, aiv = map(float, done.stdout.split())
    assert asr > 0.9
    assert aiv > 0


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples_run(example: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "examples" / example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_readme_lists_what_is_listed() -> None:
    from gifthorse.attacks import ATTACKS
    from gifthorse.bench.cell import RECIPES
    from gifthorse.datasets import DATASETS
    from gifthorse.defenses import DEFENSES
    from gifthorse.models import ARCHITECTURES
    from gifthorse.stampings import STAMPS
    from gifthorse.training.heads import HEADS

    text = (ROOT / "README.md").read_text()
    presets = (ATTACKS.presets, DEFENSES.presets, RECIPES.presets)
    for listed in (ATTACKS, DEFENSES, DATASETS, ARCHITECTURES, RECIPES, HEADS, STAMPS, *presets):
        assert [name for name in listed if f"`{name}`" not in text] == []


def test_the_citation_says_what_the_package_says() -> None:
    """Its lines are read as they stand: no reader of YAML need be there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    said = dict(re.findall(r"^([a-z-]+): (.+)$", "\n".join(lines), re.MULTILINE))
    assert said["cff-version"] == "1.2.0"
    assert said["type"] == "software"
    assert said["message"]
    same = {"title": "name", "abstract": "description", "version": "version", "license": "license"}
    assert {key: said[key].strip("\"'") for key in same} == {key: project[name] for key, name in same.items()}
    lists = {line.rstrip(":"): place for place, line in enumerate(lines) if re.fullmatch(r"[a-z-]+:", line)}
    assert lists.keys() == {"authors", "keywords"}
    assert lines[lists["authors"] + 1].removeprefix("  - name: ") in (ROOT / "LICENSE").read_text()
    assert [line.removeprefix("  - ") for line in lines[lists["keywords"] + 1 :]] == project["keywords"]


def test_profiles_name_only_what_exists() -> None:
    from gifthorse.analyses import ANALYSES
    from gifthorse.attacks import ATTACKS
    from gifthorse.bench.cell import RECIPES
    from gifthorse.bench.profiles import PROFILES, read_profile
    from gifthorse.core.configuration import Catalogue
    from gifthorse.datasets import DATASETS
    from gifthorse.defenses import DEFENSES
    from gifthorse.models import ARCHITECTURES
    from gifthorse.training.heads import HEADS
    from gifthorse.transformations import TRANSFORMATIONS

    kinds: dict[str, Catalogue] = {  # type: ignore[type-arg]
        "attack": ATTACKS,
        "defense": DEFENSES,
        "dataset": DATASETS,
        "model": ARCHITECTURES,
        "training": RECIPES,
        "head": HEADS,
        "transformation": TRANSFORMATIONS,
        "analysis": ANALYSES,
    }
    for profile in PROFILES:
        scopes = read_profile(profile)
        for kind, requests in scopes.pop("presets", {}).items():
            for request in requests.values():
                kinds[kind].build(request)
        for scope, tables in scopes.items():
            assert scope == "all" or scope in DATASETS or (scope in ARCHITECTURES and set(tables) == {"training"})
            for kind, entries in tables.items():
                if kind == "default_model":
                    assert entries in ARCHITECTURES
                    continue
                for name, fields in entries.items():
                    kinds[kind][name].from_dict(fields)


COVERAGE: dict[str, dict[str, str]] = {
    f"{category}.{name}": line
    for category, lines in tomllib.loads((ROOT / "docs/coverage.toml").read_text()).items()
    for name, line in lines.items()
}


def test_every_row_of_the_coverage_is_held_by_a_test_that_is_run(request: pytest.FixtureRequest) -> None:
    """A whole file is no evidence, nor is a test that is left out; files that are not collected are not looked at."""
    run = {item.nodeid for item in request.session.items}
    files = {name.partition("::")[0] for name in run}
    asked = request.config.option.keyword or any("::" in argument for argument in request.config.args)
    for row, line in COVERAGE.items():
        evidence = line["evidence"]
        file, _, test = evidence.partition("::")
        assert (ROOT / file).is_file(), row
        assert test, f"{row}: {file} is a whole file"
        if file in files and not asked:
            # Where processes share the work, an @ and the group stand after the name.
            more = (f"{evidence}[", f"{evidence}@")
            assert any(name == evidence or name.startswith(more) for name in run), f"{row}: {evidence}"


def test_every_use_in_the_coverage_can_be_asked_for() -> None:
    from gifthorse.analyses import ANALYSES
    from gifthorse.attacks import ATTACKS
    from gifthorse.bench.cell import RECIPES
    from gifthorse.core.configuration import Catalogue
    from gifthorse.core.metric import METRICS, UNDECLARED
    from gifthorse.datasets import DATASETS
    from gifthorse.defenses import DEFENSES
    from gifthorse.models import ARCHITECTURES
    from gifthorse.stampings import STAMPS
    from gifthorse.training.heads import HEADS

    listed: dict[str, Catalogue] = {  # type: ignore[type-arg]
        "attack": ATTACKS,
        "defense": DEFENSES,
        "dataset": DATASETS,
        "model": ARCHITECTURES,
        "training": RECIPES,
        "run --downstream": HEADS,
        "run --stamp": STAMPS,
        "analyze --with": ANALYSES,
    }
    understood = set()
    for row, line in COVERAGE.items():
        for use in line["use"].split("; "):
            for kind, catalogue in listed.items():
                if use.startswith(f"{kind} ") and not use.startswith("run --downstream --"):
                    catalogue.build(use.removeprefix(f"{kind} ").strip("'"))
                    understood.add(row)
            if use.startswith("record "):
                names = re.findall(r"[a-z]+\.[a-z0-9_]+", use)
                assert [name for name in names if METRICS.find(name).unit is UNDECLARED] == [], row
                understood.add(row)
            if use.startswith("core."):
                module, _, name = use.rpartition(".")
                assert hasattr(importlib.import_module(f"gifthorse.{module}"), name), row
                understood.add(row)
    # The others are said in words or in a command, as a report's chart is.
    assert len(understood) > 0.85 * len(COVERAGE)


def test_every_table_of_measurements_names_its_commit() -> None:
    lines = (ROOT / "docs" / "measurements.md").read_text().splitlines()
    headings = [above for above, line in pairwise(lines) if line.startswith("|---")]
    assert len(headings) > 20
    assert [heading for heading in headings if not re.search(r"\bas of [0-9a-f]{7}\b", heading)] == []
