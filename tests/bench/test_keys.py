"""The keys of a cell: everything that decides a result is in them, and they are computed once."""

import importlib
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.data.badnets import BadNets
from gifthorse.bench import cell as cell_module
from gifthorse.bench import source
from gifthorse.bench.cell import Cell, Downstream, resolve
from gifthorse.bench.profiles import PROFILES, read_profile
from gifthorse.bench.source import source_of, sources_of
from gifthorse.core import contents
from gifthorse.core.attack import Attack
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import file_digest
from gifthorse.core.defense import Defense
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.datasets.digits import Digits
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.defenses.reformation.transformation import ShrinkPad
from gifthorse.stampings.transformed import Flipped
from gifthorse.training.heads import OneLayer
from worlds import digits_task


class Wrapping(Attack):
    """An attack that holds another one, and defenses."""

    name = "wrapping"
    base: Attack = BadNets()
    against: Defense[Any] | None = None
    defenses: tuple[Defense[Any], ...] = ()

    def run(self, task: Task, benign: Classifier, seed: int, twin: Classifier | None = None) -> Trojan:
        return self.base.run(task, benign, seed)


@pytest.fixture
def _wrapping_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ATTACKS, "_classes", {**ATTACKS})
    monkeypatch.setattr(ATTACKS, "_names", dict(ATTACKS._names))
    ATTACKS.add(Wrapping)


def cell(**request: Any) -> Cell:
    return resolve(**{"dataset": "digits", "profile": "smoke", "attack": "badnets", **request})


def test_a_papers_recipe_by_name_is_kept_as_the_recipe_that_it_is() -> None:
    said = "standard[epochs=200,batch_size=128,lr=0.1,nesterov=false,weight_decay=0.0005,schedule=[100,150]]"
    for profile in ("paper", "laptop"):
        named, spelt = (cell(training=training, profile=profile) for training in ("dhbe", said))
        assert named.training.to_dict()["name"] == "standard"
        assert (named.training, named.identity()) == (spelt.training, spelt.identity())
    assert cell(training="dhbe", dataset="mnist", profile="paper").training.flip is False
    # What the paper says goes before what the profile says of an architecture.
    assert cell(training="dhbe", model="cnn_mnist", profile="paper").training.lr == 0.1
    assert cell(training="dhbe[epochs=160]").training.epochs == 160


def test_a_downstream_user_trains_as_trojanzoo_re_trains_in_the_paper_profile_alone() -> None:
    for request in ("fcn1", "fcn2[tuning=full]"):
        by_profile = {each: cell(downstream=request, profile=each).downstream for each in PROFILES}
        tuning = {each: (user.head.epochs, user.head.lr) for each, user in by_profile.items()}  # type: ignore[union-attr]
        assert tuning == {"paper": (50, 0.01), "laptop": (None, None), "smoke": (8, None)}
    for profile, head in (("paper", OneLayer(epochs=50, lr=0.01)), ("laptop", OneLayer())):
        elsewhere = cell(downstream="fcn1", downstream_dataset="mnist", profile=profile).downstream
        assert elsewhere == Downstream(head, cell(dataset="mnist", profile=profile).dataset)


@pytest.mark.usefixtures("_wrapping_is_listed")
def test_an_inner_request_is_filled_in_by_the_profile() -> None:
    for attack in ("wrapping", "wrapping[base=badnets]", "wrapping[base=bn]"):
        assert cell(attack=attack).attack == Wrapping(base=cell().attack)
    assert cell(attack="wrapping[base=badnets[poison_rate=0.3]]").attack == Wrapping(
        base=cell(attack="badnets[poison_rate=0.3]").attack
    )
    found = cell(attack="wrapping[against=strip,defenses=[shrinkpad,strip[fpr=0.1]]]").attack
    against, *defenses = [
        DEFENSES.build(str(cell(defense=defense).defense)) for defense in ("strip", "shrinkpad", "strip[fpr=0.1]")
    ]
    assert found == Wrapping(base=cell().attack, against=against, defenses=tuple(defenses))
    assert resolve(dataset="digits", attack="wrapping", profile="paper").attack == Wrapping()


@pytest.mark.usefixtures("_wrapping_is_listed")
def test_every_inner_field_is_in_the_key() -> None:
    requests = [
        "wrapping",
        "wrapping[base=badnets[trigger_size=2]]",
        "wrapping[base=imc]",
        "wrapping[against=strip]",
        "wrapping[against=strip[fpr=0.1]]",
        "wrapping[defenses=[strip]]",
        "wrapping[defenses=[strip,shrinkpad]]",
        "wrapping[defenses=[shrinkpad,strip]]",
        "wrapping[base=wrapping]",
    ]
    assert len({cell(attack=request).trojan_key() for request in requests}) == len(requests)
    assert len({cell(attack=request).benign_key() for request in requests}) == 1


def test_another_version_has_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release may compute something else under the same name: none of its keys answers for this one."""

    def keys() -> list[str]:
        request = cell(attack="badnets[origin=benign]", defense="strip")
        twin = request.attack.twin(digits_task())
        assert twin is not None
        return [request.benign_key(), request.twin_key(twin), request.trojan_key(), request.identity()]

    before = keys()
    assert keys() == before
    monkeypatch.setattr(cell_module, "metadata", SimpleNamespace(version=lambda name: f"another {name}"))
    assert not set(before) & set(keys())


@pytest.mark.usefixtures("_wrapping_is_listed")
def test_the_content_of_a_file_that_an_inner_request_names_is_in_the_key(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    request = f'wrapping[base=wrapping[base=badnets[trigger_image="{path}"]]]'
    keys = []
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        keys.append(cell(attack=request).trojan_key())
    assert keys[0] == keys[2] != keys[1]


class ReadingDefense(ShrinkPad):
    name = "reading_defense"
    path: str = ""

    def files(self) -> tuple[Path, ...]:
        return (Path(self.path),)


class ReadingHead(OneLayer):
    name = "reading_head"
    path: str = ""

    def files(self) -> tuple[Path, ...]:
        return (Path(self.path),)


class ReadingDigits(Digits):
    name = "reading_digits"
    path: str = ""

    def files(self) -> tuple[Path, ...]:
        return (Path(self.path),)


def test_files_and_source_of_a_defense_and_of_a_downstream_user_are_in_the_identity(tmp_path: Path) -> None:
    file, plain = tmp_path / "file", cell()
    for request in (
        replace(plain, defense=ReadingDefense(path=str(file))),
        replace(plain, downstream=Downstream(ReadingHead(path=str(file)), plain.dataset)),
        replace(plain, downstream=Downstream(OneLayer(), ReadingDigits(path=str(file)))),
    ):
        assert {file, Path(__file__)} <= request.files()
        keys = []
        for content in ("one", "two", "one"):
            file.write_text(content)
            keys.append(replace(request).identity())
        assert keys[0] == keys[2] != keys[1]
        assert request.trojan_key() == plain.trojan_key()


@pytest.mark.parametrize("part", ["defense", "downstream", "stamp"])
def test_an_edited_defense_or_head_is_another_cell(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = cell(**{part: {"defense": "shrinkpad", "downstream": "fcn1", "stamp": "flipped"}[part]})
    before = replace(request).identity(), request.trojan_key()
    edited = {"defense": ShrinkPad, "downstream": OneLayer, "stamp": Flipped}[part].__module__
    monkeypatch.setattr(source, "source_of", lambda name: "edited" if name == edited else source_of(name))
    assert replace(request).trojan_key() == before[1]
    assert replace(request).identity() != before[0]


def test_a_file_is_hashed_once_for_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "weights.pth", []
    path.write_bytes(b"large")

    def counting(file: Path) -> str | None:
        seen.append(file)
        return file_digest(file)

    monkeypatch.setattr(contents, "file_digest", counting)
    request = cell(model=f'torchvision/resnet18[weights="{path}"]', defense="strip")
    keys = [(request.benign_key(), request.trojan_key(), request.identity()) for _ in range(2)]
    assert keys[0] == keys[1]
    assert seen.count(path) == 1
    assert replace(request, seed=1).benign_key() != request.benign_key()


EDITED = """
from gifthorse.core import contents
from gifthorse.core.attack import Attack

class Edited(Attack):
    name = "edited"

    def run(self, task, benign, seed):
        return {answer}
"""


@pytest.mark.usefixtures("_wrapping_is_listed")
def test_an_edited_method_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    keys = []
    for answer in (1, 2, 1):
        (tmp_path / "edited_attack.py").write_text(EDITED.format(answer=answer))
        importlib.invalidate_caches()
        sys.modules.pop("edited_attack", None)
        source_of.cache_clear()
        edited = importlib.import_module("edited_attack").Edited()
        for attack in (edited, Wrapping(base=edited)):
            request = replace(cell(), attack=attack)
            keys.append((request.benign_key(), request.trojan_key(), request.identity()))
    assert keys[:2] == keys[4:]
    assert {key[0] for key in keys} == {cell().benign_key()}
    for place in (0, 1):
        assert keys[place][1] != keys[place + 2][1]
        assert keys[place][2] != keys[place + 2][2]


def files(*names: str) -> set[str]:
    root = Path(cell_module.__file__).parents[1]
    digests = {file_digest(root / name) for name in names}
    assert None not in digests
    return digests  # type: ignore[return-value]


def test_the_source_of_a_listed_method_is_that_of_its_class_and_bases() -> None:
    assert files("attacks/data/badnets.py", "planting/poisoning.py", "core/attack.py") <= set(sources_of(BadNets()))
    found = set(sources_of(NeuralCleanse()))
    assert files("defenses/inspection/neural_cleanse.py", "core/defense.py") <= found
    assert not found & files("core/configuration.py", "defenses/filtering/strip.py")


def test_what_was_typed_into_an_interpreter_has_no_source_and_still_a_key() -> None:
    typed = ModuleType("typed_in")
    exec(EDITED.format(answer=1), vars(typed))
    assert set(sources_of(typed.Edited())) == files("core/attack.py")
    assert replace(cell(), attack=typed.Edited()).trojan_key()


def test_a_profile_is_parsed_once_and_cannot_be_spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_profile("smoke")
    first["all"]["attack"]["badnets"]["poison_rate"] = 0.9
    monkeypatch.setattr(tomllib, "loads", None)
    assert read_profile("smoke")["all"]["attack"]["badnets"]["poison_rate"] == 0.1
