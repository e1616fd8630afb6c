"""Ray as the engine: a real cluster of this machine, one of whose workers is killed in the middle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gifthorse.bench.cell import resolve
from gifthorse.bench.execution import run_cells
from gifthorse.bench.plugins import load_plugin
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store

pytest.importorskip("ray")

REQUESTS = [
    {
        "dataset": "digits",
        "training": "standard[epochs=1]",
        "profile": "smoke",
        "attack": attack,
        "defense": defense,
        "seed": seed,
    }
    for attack in ("none", "badnets", "own")
    for defense in (None, "shrinkpad")
    for seed in (0, 1)
]
OWN = """
from gifthorse import Attack, Trojan

class Own(Attack):
    name = "own"

    def run(self, task, benign, seed, twin=None):
        return Trojan(benign, benign, None)
"""

# Ray warns of what it does itself, which the tests of this process take for errors.
GRID = """
import json, os, signal, sys
from pathlib import Path
import torch
from ray.cluster_utils import Cluster
from gifthorse.bench.cell import resolve
from gifthorse.bench.execution import run_cells
from gifthorse.bench.plugins import load_plugin
from gifthorse.bench.ray_pool import RayPool
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(2):
    cluster.add_node(num_cpus=1)
runner = Runner(Store(Path("store")), Path("data"), torch.device("cpu"))
load_plugin("own.py")
Path("own.py").unlink()  # as on a machine that does not have it
killed = []

def workers():
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_compute"):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found

def watch(event):
    if event.state == "ended" and not killed and (running := workers()):
        os.kill(running[0], signal.SIGKILL)
        killed.append(running[0])

pool = RayPool(runner, cluster.address, {"trojan": {"cpus": 0.5}})
records = run_cells(runner, [resolve(**request) for request in json.loads(sys.argv[1])], pool=pool, watch=watch)
cluster.shutdown()
print(json.dumps({"killed": len(killed), "slots": pool.slots, "records": [record.id for record in records]}))
"""


@pytest.mark.usefixtures("_forgets_plugins")
def test_a_grid_on_ray_outlives_a_killed_worker_and_equals_one_process(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    load_plugin(tmp_path / "own.py")
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GRID, json.dumps(REQUESTS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    answer = json.loads(found.stdout.splitlines()[-1])
    assert answer["killed"] == 1
    assert answer["slots"] == 4
    store = Store(tmp_path / "store")
    torch.set_num_threads(1)
    runner = Runner(Store(tmp_path / "alone"), tmp_path, torch.device("cpu"))
    alone = run_cells(runner, [resolve(**request) for request in REQUESTS])  # type: ignore[arg-type]
    assert answer["records"] == [record.id for record in alone]
    times = {"seconds", "created", "peak_memory_mb", "environment"}
    for record in alone:
        kept = store.load_record(record.id)
        assert kept is not None
        assert kept.model_dump(exclude=times) == record.model_dump(exclude=times)
    models = [{path.name for path in each.root.glob("artifacts/*/*")} for each in (store, runner.store)]
    assert models[0] == models[1]
    store.sweep()
    assert [path for name in ("claims", "unfinished") for path in (store.root / name).glob("*")] == []
