"""What was answered before is answered without torch, and exactly as it would be with it; what is not sure is not."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gifthorse.bench import answers
from gifthorse.bench.answers import code_digest, keep, keep_answer, kept_answer, listing_place, recall
from gifthorse.bench.store import Store
from gifthorse.cli.main import KINDS
from gifthorse.core.contents import content_digests
from gifthorse.core.record import Record

PACKAGE = Path(answers.__file__).parents[1]
PROGRAM = """
import json, sys
from gifthorse.cli.main import cli
for arguments in json.loads(sys.argv[1]):
    try:
        cli.main(arguments, standalone_mode=False)
    except SystemExit as end:
        assert not end.code, end.code
print("torch" in sys.modules, file=sys.stderr)
"""
MARK = "badnets[trigger_image=mark.png,trigger_size=3,epochs=1,poison_rate=0.2]"
RUN = ["run", "--profile", "smoke", "--training", "standard[epochs=1]", "--threads", "1", "--attack", MARK, "--json"]


class Checkout:
    """A copy of the source, a store and a cache, which tests may change."""

    def __init__(self, root: Path):
        self.root, self.package, self.cache = root, root / "src/gifthorse", root / "cache"

    def call(self, *commands: list[str], cwd: Path | None = None, **environment: str) -> tuple[str, bool, str]:
        """Run commands in a new process: what they print, whether torch was imported, and what they warn of."""
        env = {**os.environ, "PYTHONPATH": str(self.root / "src"), "XDG_CACHE_HOME": str(self.cache), **environment}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(commands)],
            cwd=cwd or self.root,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        *said, torch = done.stderr.splitlines()
        return done.stdout, torch == "True", "\n".join(said)

    def record(self) -> Path:
        (path,) = (self.root / "gifthorse-runs/records").iterdir()
        return path

    def answer(self) -> Path:
        (path,) = (self.root / "gifthorse-runs/answers").iterdir()
        return path

    def install(self, source: str) -> None:
        """Install a package that adds to gifthorse."""
        (self.root / "src/guest.py").write_text(source)
        about = self.root / "src/guest-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[gifthorse]\nmethods = guest\n")


def paint(path: Path, value: int) -> None:
    Image.new("L", (3, 3), value).save(path)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, str]:
    checkout = Checkout(tmp_path_factory.mktemp("answered"))
    shutil.copytree(PACKAGE, checkout.package, ignore=shutil.ignore_patterns("__pycache__"))
    paint(checkout.root / "mark.png", 255)
    said, torch, _ = checkout.call(RUN)
    assert torch
    return checkout, said


@pytest.fixture
def checkout(answered: tuple[Checkout, str], tmp_path: Path) -> Checkout:
    shutil.copytree(answered[0].root, tmp_path, dirs_exist_ok=True)
    return Checkout(tmp_path)


def test_without_torch_the_same_is_printed(checkout: Checkout, answered: tuple[Checkout, str]) -> None:
    assert checkout.call(RUN) == (answered[1], False, "")
    table = checkout.call(RUN[:-1])
    assert "attack success rate" in table[0]
    assert table[1:] == (False, "")
    checkout.answer().unlink()
    assert checkout.call(RUN[:-1]) == (table[0], True, "")
    assert checkout.call(RUN[:-1]) == table
    assert checkout.call(["report"], ["--version"], ["--help"], ["run", "--help"])[1] is False


def edit(name: str, old: str, new: str) -> Callable[[Checkout], None]:
    def change(checkout: Checkout) -> None:
        text = (checkout.package / name).read_text()
        assert old in text
        (checkout.package / name).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (edit("attacks/data/badnets.py", '"""', '"""Again: '), False),
        (edit("profiles/smoke.toml", "\n", "\n\n"), True),
        (lambda checkout: paint(checkout.root / "mark.png", 99), False),
        (lambda checkout: checkout.record().unlink(), True),
        (lambda checkout: checkout.record().write_text("{}"), True),
        (lambda checkout: checkout.answer().write_bytes(checkout.answer().read_bytes()[:-9]), True),
        (lambda checkout: checkout.install("from gifthorse import ATTACKS"), True),
    ],
    ids=["method", "profile", "picture", "no record", "bad record", "bad answer", "new package"],
)
def test_whatever_changed_is_looked_at_again(
    change: Callable[[Checkout], None], same: bool, checkout: Checkout, answered: tuple[Checkout, str]
) -> None:
    change(checkout)
    found, torch, warned = checkout.call(RUN)
    assert torch
    assert warned.count("damaged") <= 1
    assert (Record.from_json(found).id == Record.from_json(answered[1]).id) is same
    assert checkout.call(RUN) == (found, False, "")


def test_another_request_or_an_order_to_compute_is_no_old_answer(checkout: Checkout) -> None:
    shared = checkout.root / "gifthorse-runs"
    elsewhere = checkout.root / "elsewhere"
    elsewhere.mkdir()
    paint(elsewhere / "mark.png", 7)
    found = [Record.from_json(checkout.call(RUN)[0])]
    asked = [(["--fresh"], None), (["--device", "cpu"], None), (["--seed", "1"], None)]
    for more, cwd in (*asked, (["--store", str(shared)], elsewhere)):
        said, torch, _ = checkout.call([*RUN, *more], cwd=cwd)
        assert torch
        found.append(Record.from_json(said))
    first, fresh, there, seeded, painted = found
    assert len({first.id, seeded.id, painted.id}) == 3
    assert (fresh.id, fresh.metrics) == (first.id, first.metrics)
    assert fresh.created > first.created
    assert there == fresh


def test_images_are_looked_at_again_where_they_changed_and_each_data_root_has_its_own(checkout: Checkout) -> None:
    for root, value in (("data", 0), ("other", 200)):
        for name in ("cat", "dog"):
            (checkout.root / root / "pets" / name).mkdir(parents=True)
            for number in range(8):
                paint(checkout.root / root / "pets" / name / f"{number}.png", value + number)
    asked = [*RUN, "--dataset", "folder[path=pets,size=8,holdout=2,test=4]", "--attack", "none"]
    run = [*asked, "--data-root", "data"]
    first = checkout.call(run)
    assert checkout.call(run) == (first[0], False, "")
    elsewhere = checkout.call([*asked, "--data-root", "other"])
    touched = checkout.root / "data/pets/cat/0.png"
    os.utime(touched, (1, 1))
    assert checkout.call(run) == (first[0], False, "")
    paint(touched, 99)
    repainted = checkout.call(run)
    (checkout.root / "data/pets/cat").rename(checkout.root / "data/pets/cow")
    renamed = checkout.call(run)
    answers = [first, elsewhere, repainted, renamed]
    assert all(torch for _, torch, _ in answers)
    assert len({Record.from_json(said).id for said, _, _ in answers}) == 4
    assert checkout.call(run) == (renamed[0], False, "")


GENEROUS = """
from gifthorse.core.metric import METRICS, FRACTION, Metric
from gifthorse.metrics import attacks
METRICS.add(Metric("attack.gift", "what is inside", "attack", FRACTION, True, "How much."))
judged = attacks.judge_attack
attacks.judge_attack = lambda *given: ({**judged(*given)[0], "attack.gift": 0.5}, {})
"""


def test_a_metric_that_a_package_declares_is_shown_as_such(checkout: Checkout) -> None:
    checkout.install(GENEROUS)
    shown, torch, _ = checkout.call([*RUN[:-1], "--fresh"])
    assert torch
    assert "what is inside" in shown
    assert checkout.call(RUN[:-1]) == (shown, True, "")


def test_a_store_that_cannot_be_written_is_answered_from_all_the_same(checkout: Checkout) -> None:
    shutil.rmtree(checkout.answer().parent)
    (checkout.root / "gifthorse-runs/answers").write_text("in the way")
    for _ in range(2):
        _, torch, warned = checkout.call(RUN)
        assert (torch, warned) == (True, "")


LISTS = [["list"], *(["list", kind, *more] for kind in KINDS for more in ([], ["--json"]))]
LISTS += [["list", *named] for named in (["attacks", "bn"], ["metrics", "asr"], ["models", "torchvision"])]
GUEST = """
from gifthorse import ATTACKS
from gifthorse.attacks.no_attack import NoAttack
@ATTACKS.add
class Guest(NoAttack):
    "Brings a gift."
    name = "guest"
    aliases = ()
"""


def test_lists_are_the_live_ones(answered: tuple[Checkout, str], tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    shutil.copytree(answered[0].root / "src", tmp_path / "src")
    blocked = tmp_path / "file"
    blocked.write_text("")
    live, torch, warned = checkout.call(*LISTS, XDG_CACHE_HOME=str(blocked))
    assert (torch, warned) == (True, "")
    assert checkout.call(["list"])[1]
    assert [path.name for path in checkout.cache.rglob("*") if path.is_file()] == ["listing.json"]
    assert checkout.call(*LISTS) == (live, False, "")

    listing = checkout.cache / "gifthorse/listing.json"
    listing.write_bytes(listing.read_bytes()[:-5])
    assert checkout.call(["list"])[1]
    edit("attacks/data/badnets.py", '"""', '"""Again: ')(checkout)
    assert checkout.call(["list", "attacks", "badnets"])[1]
    named, torch, _ = checkout.call(["list", "attacks", "badnets"])
    assert not torch
    assert checkout.call(["list", "attacks", "BadNets"]) == (named, True, "")

    checkout.install(GUEST)
    said, torch, _ = checkout.call(["list", "attacks"])
    assert torch
    assert "Brings a gift." in said
    guest = checkout.root / "src/guest.py"
    guest.write_text(guest.read_text().replace("a gift", "a horse"))
    for torch in (True, False):
        said, imported, _ = checkout.call(["list", "attacks"])
        assert imported is torch
        assert "Brings a horse." in said


class TestKeeping:
    """One answer in one file."""

    @given(st.binary(max_size=200), st.binary(max_size=3))
    def test_no_bytes_are_taken_for_an_answer(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes, more: bytes
    ) -> None:
        path = tmp_path_factory.mktemp("kept") / "answer"
        path.write_bytes(content)
        assert recall(path, "code") is None
        keep(path, "code", {"a": [1, "é"]}, {})
        assert recall(path, "code") == {"a": [1, "é"]}
        path.write_bytes(path.read_bytes() + more)
        assert more == b"" or recall(path, "code") is None

    def test_holds_for_its_code_and_files_alone(self, tmp_path: Path) -> None:
        path, file = tmp_path / "new/answer", tmp_path / "file"
        for content in (None, "one", "two"):
            if content is not None:
                file.write_text(content)
            assert recall(path, "code") is None
            keep(path, "code", "yes", content_digests([file]))
            assert recall(path, "code") == "yes"
        assert recall(path, "other") is None
        assert recall(path, None) is None
        keep(tmp_path / "none", None, "yes", {})
        assert not (tmp_path / "none").exists()

    def test_what_failed_is_not_kept(self, answered: tuple[Checkout, str], tmp_path: Path) -> None:
        store, done = Store(tmp_path), Record.from_json(answered[1])
        for status in ("failed", "skipped", "done"):
            record = done.model_copy(update={"status": status})
            store.save_record(record)
            keep_answer(store, {"seed": 0}, "code", record, {})
            found = kept_answer(store, {"seed": 0}, "code", store.load_record)
            assert found == (None if status == "failed" else record)
        assert kept_answer(store, {"seed": 1}, "code", store.load_record) is None

    def test_the_code_is_that_of_every_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert code_digest() is None, "torch is loaded here"
        monkeypatch.delitem(sys.modules, "torch")
        alone = code_digest()
        assert alone == code_digest() is not None
        monkeypatch.setattr(metadata, "version", lambda name: "another")
        assert code_digest() not in (alone, None)
        monkeypatch.undo()
        monkeypatch.delitem(sys.modules, "torch")
        Checkout(tmp_path).root.joinpath("src").mkdir()
        Checkout(tmp_path).install("")
        monkeypatch.syspath_prepend(tmp_path / "src")
        joined = code_digest()
        assert joined not in (alone, None)
        (tmp_path / "src/guest.py").write_text("#")
        assert code_digest() not in (alone, joined, None)
        (tmp_path / "src/guest.py").unlink()
        assert code_digest() is None

    @pytest.mark.parametrize("given", ["", "relative"])
    def test_the_cache_is_in_the_home_unless_a_whole_path_is_given(
        self, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert listing_place() == tmp_path / ".cache/gifthorse/listing.json"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
        assert listing_place() == tmp_path / "x/gifthorse/listing.json"
