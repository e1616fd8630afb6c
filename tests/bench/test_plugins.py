"""A Python file of the user's own: what it lists, what comes of mistakes in it, and that its content is in the keys."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gifthorse.attacks import ATTACKS
from gifthorse.bench import plugins
from gifthorse.bench.cell import Cell, resolve
from gifthorse.bench.execution import Processes, run_cells
from gifthorse.bench.plugins import PLUGINS, load_plugin, load_plugins, loaded, origin_of
from gifthorse.bench.population import run_population
from gifthorse.bench.runner import Runner
from gifthorse.bench.source import sources_of
from gifthorse.bench.store import Store
from gifthorse.core.configuration import Configuration, file_digest
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import GOALS
from gifthorse.core.record import Population, Record
from gifthorse.defenses import DEFENSES

OWN = """
from abc import abstractmethod
from gifthorse import DEFENSES, AllToOne, Attack, CleanModel, DataFreeView, Defense, Trojan
from gifthorse.attacks.data.badnets import BadNets

class Base(Attack):
    @abstractmethod
    def more(self): ...

class Nameless(Attack):
    def run(self, task, benign, seed, twin=None): ...

class Mine(Attack):
    name = "mine"
    strength: int = 1

    def run(self, task, benign, seed, twin=None):
        strength = self.strength + 0
        return Trojan(benign, benign, None)

@DEFENSES.add
class Yours(Defense[DataFreeView]):
    name = "yours"
    family = "sanitization"
    view = DataFreeView

    def defend(self, view, seed) -> CleanModel:
        return CleanModel(view.model)

class Wish(AllToOne):
    name = "wish"
"""

INSPECTS = """
from gifthorse import ModelVerdict

class Eyes(Defense[DataFreeView]):
    name = "eyes"
    family = "inspection"
    view = DataFreeView

    def defend(self, view, seed) -> ModelVerdict:
        return ModelVerdict(None, None, decisive=1.0, flagged=True)
"""

pytestmark = pytest.mark.usefixtures("_forgets_plugins")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own methods.py"
    path.write_text(OWN)
    return path


def cell(defense: str | None = None) -> Cell:
    return resolve(dataset="digits", profile="smoke", attack="mine", defense=defense)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_lists_the_concrete_classes_that_it_defines_whether_or_not_it_says_so(own: Path) -> None:
    plugin = load_plugin(own)
    assert {cls.__name__ for cls in plugin.listed} == {"Mine", "Yours", "Wish"}
    assert {"mine"} == set(ATTACKS) & {"mine", "base", "nameless"}
    assert "yours" in DEFENSES
    assert "wish" in GOALS
    assert origin_of(ATTACKS["mine"]) == str(own)
    assert origin_of(ATTACKS["badnets"]) == "gifthorse"
    assert str(ATTACKS.build("mine[strength=2]")) == "mine[strength=2]"


def test_loading_it_again_is_harmless_by_whatever_path(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = load_plugin(own)
    monkeypatch.chdir(own.parent)
    assert load_plugin(own.name) is load_plugin(str(own)) is plugin
    assert list(PLUGINS) == [plugin.source.module]


def test_its_objects_reach_another_process_that_loads_the_same_file(own: Path) -> None:
    load_plugin(own)
    attack = ATTACKS.build("mine[strength=3]")
    own.unlink()
    code = """
import pickle, sys
from gifthorse.bench.plugins import load_as_elsewhere
plugins, attack = pickle.loads(sys.stdin.buffer.read())
load_as_elsewhere(plugins)
print(pickle.loads(attack))
"""
    sent = pickle.dumps((loaded(), pickle.dumps(attack)))
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert done.stdout == b"mine[strength=3]\n"


def test_processes_compute_with_what_the_first_one_loaded_even_if_the_file_is_edited_meanwhile(
    own: Path, tmp_path: Path
) -> None:
    load_plugin(own)
    runner = Runner(Store(tmp_path / "store"), Path("unused"), torch.device("cpu"))
    cells = [cell(defense) for defense in (None, "yours", "shrinkpad")]
    edit(own, "return Trojan", "raise ValueError('edited')")
    records = run_cells(runner, cells, pool=Processes(runner, 2))
    assert [(record.status, record.reason) for record in records] == [("done", None)] * 3
    assert [record.id for record in records] == [runner.reading(each).identity() for each in cells]
    assert {digest for record in records for digest in record.plugins.values()} == {loaded()[0].digest}


def test_what_only_the_first_process_can_load_fails_its_cells_with_the_reason(own: Path, tmp_path: Path) -> None:
    own.write_text(OWN + "\nimport os\nassert os.getpid() == " + str(os.getpid()) + ", 'elsewhere'\n")
    load_plugin(own)
    runner = Runner(Store(tmp_path / "store"), Path("unused"), torch.device("cpu"))
    (record,) = run_cells(runner, [cell()], pool=Processes(runner, 2))
    assert record.status == "failed"
    assert record.reason == f"the plugin {own} cannot be loaded: AssertionError: elsewhere (own methods.py, line 34)"


def test_a_population_tells_the_plugin(own: Path, tmp_path: Path) -> None:
    own.write_text(OWN + INSPECTS)
    plugin = load_plugin(own)
    runner = Runner(Store(tmp_path / "store"), Path("unused"), torch.device("cpu"))
    request = resolve(dataset="digits", profile="smoke", attack="badnets", defense="eyes")
    found = run_population(runner, request, benign=1, trojaned=1)
    assert (found.n_benign, found.n_trojaned) == (1, 1)
    assert found.plugins == {str(own): plugin.source.digest}
    old = found.model_dump(mode="json", by_alias=True)
    del old["plugins"]
    assert Population.model_validate(old).plugins == {}


def test_an_edited_body_is_another_key_and_the_old_one_is_gone(own: Path) -> None:
    keys, classes = [], []
    for old, new in (("+ 0", "+ 0"), ("+ 0", "+ 1"), ("+ 1", "+ 0")):
        edit(own, old, new)
        load_plugin(own)
        request = cell(defense="yours")
        keys.append((request.benign_key(), request.trojan_key(), request.identity()))
        classes.append(ATTACKS["mine"])
    assert keys[0] == keys[2]
    assert keys[0][0] == keys[1][0] == resolve(dataset="digits", profile="smoke").benign_key()
    assert keys[0][1] != keys[1][1]
    assert keys[0][2] != keys[1][2]
    assert len(set(classes)) == 3
    assert len(PLUGINS) == 1


def test_the_key_is_of_what_was_run_whatever_the_file_holds_by_now(own: Path) -> None:
    load_plugin(own)
    ran = file_digest(own)
    edit(own, "+ 0", "+ 1")
    assert ran in sources_of(ATTACKS.build("mine"))
    assert file_digest(own) not in sources_of(ATTACKS.build("mine"))


def test_what_bytecode_remembers_is_not_run(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes bytecode for that of a file of the same size and second, where it writes any."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    own.write_text("value = 1\n")
    assert vars(sys.modules[load_plugin(own).source.module])["value"] == 1
    own.write_text("value = 2\n")
    assert vars(sys.modules[load_plugin(own).source.module])["value"] == 2
    assert [path.name for path in own.parent.iterdir()] == [own.name]


def test_a_class_of_another_module_that_it_lists_is_keyed_by_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, plugin = tmp_path / "laboratory_attacks.py", tmp_path / "lists.py"
    module.write_text(OWN)
    plugin.write_text("from gifthorse import ATTACKS\nfrom laboratory_attacks import Mine\nATTACKS.add(Mine)\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_plugin(plugin)
    attack = ATTACKS.build("mine")
    assert {file_digest(module), file_digest(plugin)} <= set(sources_of(attack))
    assert {module, plugin} <= cell().files()
    assert origin_of(type(attack)) == str(plugin)
    assert set(cell().plugins()) == {str(plugin)}
    edit(plugin, "ATTACKS.add(Mine)", "ATTACKS.add(Mine)  # again")
    assert {cls.__name__ for cls in load_plugin(plugin).listed} == {"Mine", "Yours"}


def test_a_record_tells_the_plugin_and_how_to_run_it_again(own: Path, tmp_path: Path) -> None:
    plugin = load_plugin(own)
    runner = Runner(Store(tmp_path / "store"), Path("unused"), torch.device("cpu"))
    with_it, without = runner.run(cell()), runner.run(replace(cell(), attack=ATTACKS.build("none")))
    assert with_it.status == without.status == "done"
    assert with_it.plugins == {str(own): plugin.source.digest}
    assert with_it.command is not None
    assert without.command is not None
    assert f"--plugin '{own}'" in with_it.command
    assert without.plugins == {}
    assert "--plugin" not in without.command
    old = without.model_dump(mode="json", by_alias=True)
    del old["plugins"]
    assert Record.model_validate_json(Record.model_validate(old).to_json()) == without


LISTED_FIRST = f"{OWN}\nfrom gifthorse import ATTACKS\nATTACKS.add(Mine)\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (LISTED_FIRST + "1 / 0", r"ZeroDivisionError: division by zero \(own.py, line 35\)"),
        (LISTED_FIRST + "raise SystemExit(3)", r"SystemExit: 3 \(own.py, line 35\)"),
        ("def broken(:", r"SyntaxError: invalid syntax \(own.py, line 1\)"),
        ("import nowhere_to_be_found", r"No module named 'nowhere_to_be_found' \(own.py, line 1\)"),
        ("x = 1\n\0", r"source code string cannot contain null bytes"),
        (OWN.replace('"mine"', '"badnets"'), r"Mine cannot be listed: 'badnets' is the attack BadNets"),
        (
            OWN.replace('"yours"', '"nc"'),
            r"Yours cannot be listed: 'nc' is the defense NeuralCleanse \(own.py, line 21\)",
        ),
        (OWN.replace('"mine"', '"a b"'), r"its name 'a b' is not a plain word"),
    ],
    ids=["error", "exit", "syntax", "import", "bytes", "taken", "taken where it says", "name"],
)
def test_one_that_fails_is_told_in_one_line_and_leaves_nothing_behind(source: str, said: str, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(source)
    before = listed()
    for _ in range(2):
        with pytest.raises(RequestError, match=rf"^the plugin .*own.py cannot be loaded: .*{said}") as caught:
            load_plugin(own)
        assert "\n" not in str(caught.value)
        assert listed() == before
        assert not PLUGINS
        assert not [name for name in sys.modules if name.startswith("gifthorse_plugin_")]
    own.write_text(OWN)
    load_plugin(own)
    assert "mine" in ATTACKS


def listed() -> list[type[Configuration]]:
    return plugins._listed()


@pytest.mark.parametrize("name", ["missing.py", "folder.py", "notebook.ipynb"])
def test_what_is_no_python_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "notebook.ipynb").write_text("{}")
    reason = "no Python file" if name.endswith("ipynb") else "cannot be read"
    with pytest.raises(RequestError, match=rf"{name} .*{reason}|{reason}.*{name}"):
        load_plugin(tmp_path / name)


def test_everything_that_is_wrong_with_several_is_said_at_once_and_the_others_are_listed(
    own: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    with pytest.raises(RequestError) as caught:
        load_plugins([broken, own, tmp_path / "missing.py"])
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"the plugin {broken} cannot be loaded: ZeroDivisionError")
    assert second.startswith(f"the plugin {tmp_path / 'missing.py'} cannot be read")
    assert "mine" in ATTACKS
