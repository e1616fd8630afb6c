"""Four processes that share a store: everything is computed once, whoever comes first."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from disturbances import leftovers
from gifthorse.bench.store import Store
from terminal import gifthorse_begun

QUICK = ["run", "--profile", "smoke", "--training", "standard[epochs=1]", "--threads", "1", "--attack", "badnets"]
COUNTING = """
from gifthorse.planting import schedule
from gifthorse.training import scratch

def counting(fit):
    def counted(*args, **kwargs):
        with open({path!r}, "a") as file:
            file.write(kwargs["label"] + "\\n")
        fit(*args, **kwargs)
    return counted

for module in (schedule, scratch):
    module.fit = counting(module.fit)
"""


def at_once(folder: Path, commands: Sequence[Sequence[str]]) -> Counter[str]:
    """Run commands at the same time; return what was trained, how often."""
    log = folder / "trainings.txt"
    streams = [[folder / f"{kind}{number}.txt" for kind in ("out", "err")] for number in range(len(commands))]
    before = COUNTING.format(path=str(log))
    processes = [
        gifthorse_begun(*command, cwd=folder, paths=paths, before=before)
        for command, paths in zip(commands, streams, strict=True)
    ]
    for process, (_, errors) in zip(processes, streams, strict=True):
        process.join(300)
        assert process.exitcode == 0, errors.read_text()
    return Counter(log.read_text().splitlines())


def test_of_the_same_cell_each_model_is_trained_once_and_all_print_one_record(tmp_path: Path) -> None:
    assert at_once(tmp_path, [[*QUICK, "--defense", "shrinkpad", "--json"]] * 4) == {"benign model": 1, "badnets": 1}
    assert len({(tmp_path / f"out{number}.txt").read_text() for number in range(4)}) == 1
    store = Store(tmp_path / "gifthorse-runs")
    assert len(list(store.records())) == 1
    assert leftovers(store) == []


def test_different_cells_share_what_they_have_in_common(tmp_path: Path) -> None:
    """Two defenses of one trojan, and two rates: one benign model, three trojans."""
    ends = (["--defense", "shrinkpad"], [], *(["--attack", f"badnets[poison_rate={rate}]"] for rate in (0.05, 0.2)))
    assert at_once(tmp_path, [[*QUICK, *end] for end in ends]) == {"benign model": 1, "badnets": 3}
    store = Store(tmp_path / "gifthorse-runs")
    assert len(list(store.records())) == 4
    assert leftovers(store) == []
