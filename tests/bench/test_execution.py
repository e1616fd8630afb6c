"""Plans and their execution: every node once, in order, and what fails fails what needs it alone."""

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from gifthorse.bench import execution
from gifthorse.bench.cell import Cell, resolve
from gifthorse.bench.execution import Event, Failure, Inline, Processes, execute, run_cells
from gifthorse.bench.plan import Node, plan
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.errors import RequestError, StoreError
from gifthorse.core.record import Record

TIMES = {"seconds", "created", "peak_memory_mb", "environment"}


def cell(**request: Any) -> Cell:
    quick = {"dataset": "digits", "training": "standard[epochs=1]", "profile": "smoke", "attack": "badnets"}
    return resolve(**{**quick, **request})


def cells() -> list[Cell]:
    return [
        cell(attack=attack, defense=defense, seed=seed)
        for attack in ("none", "badnets", "imc[origin=benign,epochs=1]")
        for defense in (None, "shrinkpad")
        for seed in (0, 1)
    ]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(Store(tmp_path), Path("unused"), torch.device("cpu"))


def stages(nodes: list[Node] | tuple[Node, ...]) -> Counter[str]:
    return Counter(node.stage for node in nodes)


def comparable(record: Record) -> dict[str, Any]:
    return record.model_dump(exclude=TIMES)


class Remembering:
    """A pool that computes nothing: it remembers, and fails what it is told to."""

    def __init__(self, fails: str = "", slots: int = 1):
        self.fails, self.slots, self.done = fails, slots, list[Node]()
        self.begun = list[Node]()
        self.closed = False

    def start(self, node: Node) -> None:
        assert len(self.begun) < self.slots
        self.begun.append(node)

    def finished(self) -> tuple[Node, Record | Failure | None]:
        node = self.begun.pop()
        self.done.append(node)
        return node, Failure("it broke", "a log") if node.stage == self.fails else None

    def close(self) -> None:
        self.closed = True


def test_a_plan_has_every_model_once_and_every_node_after_what_it_needs(runner: Runner) -> None:
    work = plan(runner, [*cells(), *cells()])
    # IMC re-trains here, so that it has a twin; the others are trained from scratch in this profile.
    assert stages(work.nodes) == {"benign": 2, "twin": 2, "trojan": 6, "record": 12}
    seen: set[str] = set()
    for node in work.nodes:
        assert set(node.needs) <= seen
        seen.add(node.name)
    assert len(seen) == len(work.nodes)
    assert {node.stage for node in work.nodes if not node.needs} == {"benign"}


def test_what_is_prepared_once_is_one_node_for_all_seeds(runner: Runner) -> None:
    references = "neural_cleanse[reference=2]"
    work = plan(runner, [cell(defense=references, seed=seed) for seed in (0, 1, 2)])
    assert stages(work.nodes) == {"benign": 3, "trojan": 3, "prepared": 1, "record": 3}


def test_what_an_attack_prepares_is_one_node_for_all_rates_and_wrappers(runner: Runner) -> None:
    attacks = (
        "label_consistent",
        "label_consistent[poison_rate=0.6]",
        "enhanced[base=label_consistent]",
        "invisible[perturbation=universal]",
        "invisible",
    )
    work = plan(runner, [cell(attack=attack, seed=seed) for attack in attacks for seed in (0, 1)])
    assert stages(work.nodes) == {"benign": 2, "twin": 4, "attack_prepared": 4, "trojan": 10, "record": 10}
    names = [node.name for node in work.nodes if node.stage == "attack_prepared" and node.cell.seed == 0]
    needing = [node.cell.attack for node in work.nodes if node.stage == "trojan" and {*names} & {*node.needs}]
    assert [str(attack.name) for attack in needing] == ["label_consistent", "label_consistent", "enhanced", "invisible"]


def test_what_the_store_has_is_not_planned_again(runner: Runner) -> None:
    run_cells(runner, [cell()])
    assert stages(plan(runner, [cell(), cell(defense="strip")]).nodes) == {"record": 1}
    assert list(plan(runner, [cell()]).known) == [runner.reading(cell()).identity()]
    assert stages(plan(runner, [cell()], fresh=True).nodes) == {"benign": 1, "trojan": 1, "record": 1}


def test_all_cells_that_cannot_be_carried_out_are_named_before_anything_runs(runner: Runner, tmp_path: Path) -> None:
    wrong = [cell(attack="badnets[target=10]"), cell(attack="badnets[target=11]"), cell()]
    with pytest.raises(RequestError) as error:
        plan(runner, wrong)
    assert ["target=10" in line or "target=11" in line for line in str(error.value).splitlines()] == [True, True]
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("slots", [1, 3])
def test_nodes_begin_only_when_all_that_they_need_is_there(runner: Runner, slots: int) -> None:
    pool, work = Remembering(slots=slots), plan(runner, cells())
    events: list[Event] = []
    execute(work, runner, pool=pool, watch=events.append)
    assert Counter(node.name for node in pool.done) == Counter(node.name for node in work.nodes)
    ended: set[str] = set()
    for event in events:
        if event.state == "started":
            assert set(event.node.needs) <= ended
        else:
            ended.add(event.node.name)
    assert pool.closed


def test_a_failed_model_fails_the_cells_that_need_it_and_no_other(runner: Runner) -> None:
    events: list[Event] = []
    found = execute(plan(runner, cells()), runner, pool=Remembering(fails="twin"), watch=events.append)
    assert {(record.attack["name"], record.status, record.reason) for record in found.values()} == {
        ("imc", "failed", "it broke")
    }
    assert len(found) == 4
    for record in found.values():
        assert runner.store.log_path(record.id).read_text() == "a log"
    # Each node ends once, those that never began as well.
    assert Counter(event.node.name for event in events if event.state == "ended").most_common(1)[0][1] == 1


def test_a_failed_cell_is_tried_again_and_its_log_goes(runner: Runner) -> None:
    failed = execute(plan(runner, [cell()]), runner, pool=Remembering(fails="record"))
    assert [record.status for record in failed.values()] == ["failed"]
    (done,) = run_cells(runner, [cell()])
    assert done.status == "done"
    assert not runner.store.log_path(done.id).exists()


def test_fail_fast_stops_at_the_first_failed_cell(runner: Runner) -> None:
    pool = Remembering(fails="record")
    found = execute(plan(runner, cells()), runner, pool=pool, fail_fast=True)
    assert len(found) == 1
    assert pool.closed


def test_a_store_that_cannot_be_written_ends_everything(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(Store, "save_artifact", full)
    with pytest.raises(StoreError, match="no space left"):
        run_cells(runner, cells())


def test_an_interrupt_closes_the_pool(runner: Runner) -> None:
    class Interrupted(Remembering):
        def finished(self) -> tuple[Node, Record | Failure | None]:
            raise KeyboardInterrupt

    pool = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        execute(plan(runner, cells()), runner, pool=pool)
    assert pool.closed


def test_a_cell_whose_images_changed_meanwhile_is_not_taken_for_the_planned_one(runner: Runner) -> None:
    (node,) = (node for node in plan(runner, [cell()]).nodes if node.stage == "record")
    other = Node("record", "another key", node.cell)
    assert isinstance(execution.make(runner, other), Failure)


def test_debug_raises_what_went_wrong(runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gifthorse.bench.runner.judge_attack", broken)
    (record,) = run_cells(runner, [cell()])
    assert record.status == "failed"
    assert "Traceback" in runner.store.log_path(record.id).read_text()
    raising = Runner(runner.store, runner.data_root, runner.device, debug=True)
    with pytest.raises(ZeroDivisionError):
        run_cells(raising, [cell()])


def test_processes_give_the_records_that_one_process_gives(runner: Runner, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    alone = run_cells(runner, cells())
    shared = Runner(Store(tmp_path / "shared"), runner.data_root, runner.device)
    together = run_cells(shared, cells(), pool=Processes(shared, 2))
    assert list(map(comparable, together)) == list(map(comparable, alone))
    assert list((tmp_path / "shared" / "claims").iterdir()) == []
    assert list((tmp_path / "shared" / "unfinished").iterdir()) == []


def test_a_killed_process_is_replaced_and_its_node_begun_again(runner: Runner) -> None:
    pool = Processes(runner, 2)
    killed: list[int] = []

    def watch(event: Event) -> None:
        busy = [worker for worker in pool._workers if worker.node is not None]
        if event.state == "ended" and busy and len(killed) < 2:
            os.kill(busy[0].process.pid or 0, signal.SIGKILL)
            killed.append(busy[0].process.pid or 0)

    records = run_cells(runner, cells(), pool=pool, watch=watch)
    assert len(killed) == 2
    assert [record.status for record in records] == ["done"] * 12
    assert pool._workers == []


def test_a_node_whose_processes_keep_dying_fails_with_the_signal(runner: Runner) -> None:
    class Deadly(Processes):
        def start(self, node: Node) -> None:
            super().start(node)
            worker = next(each for each in self._workers if each.node is node)
            os.kill(worker.process.pid or 0, signal.SIGKILL)

    (record,) = run_cells(runner, [cell()], pool=Deadly(runner, 1))
    assert record.status == "failed"
    assert record.reason is not None
    assert "SIGKILL" in record.reason


def test_the_pool_of_this_process_computes_what_it_is_given(runner: Runner) -> None:
    pool = Inline(runner)
    (first, *_) = plan(runner, [cell()]).nodes
    pool.start(first)
    assert pool.finished() == (first, None)
    assert runner.store.has_artifact("benign", first.key)
