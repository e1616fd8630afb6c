"""Execution beyond one machine: nodes as tasks of a Ray cluster whose machines share the store's folder.

Results come back through the store; Ray moves requests and records only.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gifthorse.bench.execution import ATTEMPTS, Failure, loading, make
from gifthorse.bench.machine import pick_device
from gifthorse.bench.plan import Node
from gifthorse.bench.plugins import Source, loaded
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.errors import RequestError
from gifthorse.core.record import Record

LOCAL = "local"
"""The address that starts a cluster of this machine alone, for as long as the grid runs."""


class RayPool:
    """Computes nodes on a Ray cluster, each with the resources of its stage; what died is begun again elsewhere.

    ``resources`` are CPUs and (fractions of) GPUs by stage, one CPU where nothing is said. ``device`` is what the user
    named, or every machine takes its own GPU where its task was given one. :class:`RequestError` where Ray is not
    installed or the cluster cannot be reached.
    """

    def __init__(
        self,
        runner: Runner,
        address: str,
        resources: Mapping[str, Mapping[str, float]] | None = None,
        *,
        device: str | None = None,
    ):
        try:
            import ray
        except ImportError:
            raise RequestError("--ray needs Ray: pip install 'gifthorse[ray]'") from None
        self._ray, self._resources, self._began = ray, resources or {}, not ray.is_initialized()
        if self._began:
            where = None if address == LOCAL else address
            try:
                ray.init(address=where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                raise RequestError(f"--ray {address}: {str(error).splitlines()[0]}") from None
        smallest = min((self._of(stage)["num_cpus"] for stage in self._resources), default=1)
        self.slots = max(1, int(_total_cpus(ray) / max(smallest, 0.01)))
        # Workers have a folder of their own.
        runner = replace(
            runner, store=Store(runner.store.root.resolve()), data_root=runner.data_root.resolve(), download=False
        )
        about = (Path.cwd(), device, torch.backends.cudnn.deterministic)
        self._shared = ray.put((runner, loaded(), about))
        self._compute = ray.remote(_compute)
        self._tasks: dict[Any, Node] = {}

    def start(self, node: Node) -> None:
        """Submit the node."""
        options = self._compute.options(max_retries=ATTEMPTS - 1, **self._of(node.stage))
        # Inside of a list, as Ray would otherwise read the node before the task has its plugins.
        reference = [self._ray.put(node)]
        self._tasks[options.remote(self._shared, reference, max(1, int(self._of(node.stage)["num_cpus"])))] = node

    def finished(self) -> tuple[Node, Record | Failure | None]:
        """Wait for a task."""
        (done, *_), _ = self._ray.wait(list(self._tasks), num_returns=1)
        node = self._tasks.pop(done)
        try:
            return node, self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            return node, Failure(f"its task was lost {ATTEMPTS} times ({reason})", str(error))

    def close(self) -> None:
        """Cancel what still runs, and leave the cluster if it was joined here."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks.clear()
        if self._began:
            self._ray.shutdown()

    def _of(self, stage: str) -> dict[str, float]:
        said = self._resources.get(stage, {})
        return {"num_cpus": said.get("cpus", 1), "num_gpus": said.get("gpus", 0)}


def _compute(shared: tuple[Runner, list[Source], tuple[Path, str | None, bool]], node: list[Any], threads: int) -> Any:
    import ray

    runner, plugins, (folder, device, deterministic) = shared
    # Requests may name files relative to where the grid was started.
    if folder.is_dir():
        os.chdir(folder)
    torch.set_num_threads(threads)
    runner = replace(runner, device=pick_device(device, deterministic=deterministic))
    return loading(plugins) or make(runner, ray.get(node[0]))


def _total_cpus(ray: Any) -> float:
    return float(ray.cluster_resources().get("CPU", 1))
