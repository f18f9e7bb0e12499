"""The resources of a cluster: what its nodes have, and what its autoscaler may add.

Before the first trial it is also checked that every node imports the same raycae and sees the
results. Ray is imported inside functions, because only a process that has joined one needs it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raycae.errors import InputError, StorageError
from raycae.storage.files import write_atomic
from raycae.storage.paths import Place, resolve_place
from raycae.storage.retry import retry_policy

CLUSTER_FILE = Path("~/ray_bootstrap_config.yaml")
"""The cluster file that `ray up` leaves on the head for the autoscaler, with what a machine of each
type has. Ray itself does not publish what its autoscaler may start."""
HEAD = "node:__internal_head__"
"""The resource by which Ray marks the head of a cluster."""
ASKED_S = 60.0
"""A node that has not answered a question after this many seconds cannot be used."""
FRESH_S = 2.0
"""The number of trial slots is counted again after this many seconds."""


@dataclass(frozen=True)
class NodeType:
    """One kind of machine that an autoscaler may start.

    Attributes:
        resources: What a machine has, such as `{"CPU": 8}`. If it is empty, Ray finds out when the
            machine has joined.
        most: The largest number of these machines that run at a time.
    """

    resources: Mapping[str, float]
    most: int


@dataclass(frozen=True)
class Autoscaler:
    """What may be started.

    Attributes:
        types: The kinds of machines.
        most: The largest number of machines of all kinds together.
    """

    types: Sequence[NodeType] = ()
    most: int = 0

    @classmethod
    def from_cluster_file(cls, cluster_file: Mapping[str, Any]) -> Autoscaler:
        """Read which workers may be started.

        Args:
            cluster_file: The content of the cluster file that `ray up` has completed.
        """
        most = cluster_file.get("max_workers", 0)
        head = cluster_file.get("head_node_type")
        types = [
            NodeType(kind.get("resources") or {}, kind.get("max_workers", most))
            for name, kind in cluster_file.get("available_node_types", {}).items()
            # With the provider `local`, head and workers have the same type.
            if name != head or cluster_file["provider"]["type"] == "local"
        ]
        return cls(types, most)

    def count_slots(self, cpus: int, gpus: float) -> int:
        """Count the trials that fit on the machines that may run, the largest ones first.

        Args:
            cpus: CPU cores per trial.
            gpus: GPUs per trial.
        """
        slots = [
            n
            for kind in self.types
            for n in [count_trial_slots(kind.resources, cpus, gpus)] * kind.most
        ]
        return sum(sorted(slots, reverse=True)[: self.most])


class TrialSlots:
    """How many trials fit on the cluster at a time: on its nodes, or on those that may be started.

    Attributes:
        cpus: CPU cores per trial.
        gpus: GPUs per trial.
    """

    def __init__(
        self, cpus: int, gpus: float | None, concurrent: int | None, autoscaler: Autoscaler
    ) -> None:
        """Choose the resources of a trial.

        Args:
            cpus: CPU cores per trial.
            gpus: GPUs per trial; None: one if there is any.
            concurrent: Trials at a time; None: as many as fit.
            autoscaler: The nodes that may be started.

        Raises:
            InputError: A trial fits on no node, so it would wait for ever.
        """
        known = [*list_alive_nodes().values(), *(kind.resources for kind in autoscaler.types)]
        if gpus is None:
            gpus = 1 if any(node.get("GPU") for node in known) else 0
        if gpus > 1 and gpus != int(gpus):
            raise InputError(
                f"--gpus-per-trial {gpus:g}: expected a fraction of one GPU, or a whole number "
                "of GPUs"
            )
        self.cpus, self.gpus = cpus, gpus
        self._concurrent, self._autoscaler = concurrent, autoscaler
        self._counted_at, self._counted = 0.0, 0
        if not any(count_trial_slots(node, cpus, gpus) for node in known):
            raise InputError(self._format_too_much())

    def count_available(self) -> int:
        """Return how many trials may run at a time now; nodes join and leave.

        It is at least 1. If no node is left, the pending trial makes the autoscaler start one.
        """
        if self._concurrent:
            return self._concurrent
        now = time.monotonic()
        if now - self._counted_at > FRESH_S:
            n_present = sum(
                count_trial_slots(node, self.cpus, self.gpus)
                for node in list_alive_nodes().values()
            )
            self._counted = max(n_present, self._autoscaler.count_slots(self.cpus, self.gpus), 1)
            self._counted_at = now
        return self._counted

    def _format_too_much(self) -> str:
        """Write that a trial fits on no node, and what the nodes have."""

        def list_kinds(nodes: Sequence[Mapping[str, float]]) -> str:
            kinds = sorted({(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes})
            return ", ".join(f"{cpus:g} CPU and {gpus:g} GPU" for cpus, gpus in kinds)

        present = list(list_alive_nodes().values())
        known = [kind.resources for kind in self._autoscaler.types if kind.resources]
        unknown = sum(kind.most for kind in self._autoscaler.types if not kind.resources)
        message = (
            f"--cpus-per-trial {self.cpus} --gpus-per-trial {self.gpus:g}: no node is large "
            f"enough. Nodes in the cluster: {list_kinds(present)}."
        )
        if known:
            message += f" The autoscaler can start: {list_kinds(known)}."
        if unknown > len(present) - 1:
            n_missing = unknown - len(present) + 1
            message += f" Number of nodes that have not joined: {n_missing} (see `ray status`)."
        return message


def count_trial_slots(resources: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Count the trials that fit on one node.

    Args:
        resources: What the node has, by Ray's names.
        cpus: CPU cores per trial, at least 1.
        gpus: GPUs per trial. A share belongs to one GPU: 0.4 fits twice on each.
    """
    n_cpus = resources.get("CPU", 0) // cpus
    if not gpus:
        return int(n_cpus)
    n_gpus = resources.get("GPU", 0)
    return int(min(n_cpus, n_gpus // gpus if gpus >= 1 else n_gpus * int(1 / gpus + 1e-9)))


def list_alive_nodes() -> dict[str, Mapping[str, float]]:
    """Return what each node of the cluster has, by the node's id."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def survey_nodes(results: Place) -> Autoscaler:
    """Check that every node can run this search, and ask the head what its autoscaler may start.

    Args:
        results: The folder of all studies. Every node has to see what this machine writes there.

    Raises:
        InputError: A node imports another raycae than this process, or does not see the results.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    names = {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in ray.nodes()
        if node["Alive"]
    }
    _require_same_package(names)
    files = [read_cluster_file()] if HEAD in list_alive_nodes()[here] else []
    if others := [node for node in names if node != here]:
        marker = find_nearest_folder(results) / f".seen-from-every-node-{uuid.uuid4().hex[:8]}"
        write_atomic(marker, marker.name.encode())
        try:
            answers = _ask_nodes(others, names, probe_node, str(marker))
        finally:
            marker.unlink(missing_ok=True)
        for node, (blind, file) in answers.items():
            if blind:
                raise InputError(
                    f"--results {results}: node {names[node]} cannot read a test file that this "
                    f"machine wrote there ({blind}). Use a folder that all nodes share, or an "
                    "object store: s3://BUCKET/PATH"
                )
            files.append(file)
    for text in filter(None, files):
        return Autoscaler.from_cluster_file(yaml.safe_load(text))
    return Autoscaler()


def _require_same_package(names: Mapping[str, str]) -> None:
    """Raise `InputError` unless every node imports the raycae that this process runs."""
    identify = _make_identify()
    folder, version, digest = identify()
    for node, found in _ask_nodes(list(names), names, identify).items():
        if found is None:
            raise InputError(
                f"node {names[node]}: its workers cannot import raycae; this process "
                f"imports raycae {version} from {folder}. Install the same version there"
            )
        if found[2] != digest:
            raise InputError(
                f"node {names[node]}: its workers import raycae {found[1]} from {found[0]}, this "
                f"process imports raycae {version} from {folder}, and their files differ. Install "
                "the same version on both"
            )


def _make_identify() -> Callable[[], Any]:
    """Return a function that says which raycae a process imports.

    It returns the package's folder, its version and a checksum of its source files, or None if
    there is none. It is nested so that Ray sends it by value: a worker runs it without raycae.
    """

    def identify() -> tuple[str, str, str] | None:
        import hashlib
        from importlib import metadata, util
        from pathlib import Path

        spec = util.find_spec("raycae")
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).resolve().parent
        digest = hashlib.sha256()
        for file in sorted(folder.rglob("*.py")):
            digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
        try:
            version = metadata.version("raycae")
        except metadata.PackageNotFoundError:
            version = "(unknown version)"
        return str(folder), version, digest.hexdigest()

    return identify


def _ask_nodes(
    nodes: Sequence[str], names: Mapping[str, str], question: Callable[..., Any], *arguments: Any
) -> dict[str, Any]:
    """Run `question` once on each node.

    Returns:
        The answer of each node, by the node's id.

    Raises:
        InputError: It fails on a node, or takes longer than `ASKED_S` seconds there.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = ray.remote(num_cpus=0, max_retries=0)(question)
    asking = {
        node: asked.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(*arguments)
        for node in nodes
    }
    ray.wait(list(asking.values()), num_returns=len(asking), timeout=ASKED_S)
    answers = {}
    for node, answer in asking.items():
        try:
            answers[node] = ray.get(answer, timeout=0)
        except RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"node {names[node]}: raycae cannot run there: {lines[-1]}") from None
    return answers


def probe_node(marker: str) -> tuple[str | None, str | None]:
    """Look for a file from this node; Ray runs it on every node.

    Args:
        marker: The path or URI of a file that the driver has written.

    Returns:
        Why the file cannot be read, or None; and the text of this node's cluster file, or None.
    """
    # The driver waits for the answer, so a fault of the storage is not retried for long.
    with retry_policy.use(lambda note: None, over=lambda: True):
        try:
            resolve_place(marker).read_bytes()
        except FileNotFoundError:
            return "file not found", None
        except (InputError, StorageError) as error:
            return str(error), None
    return None, read_cluster_file()


def read_cluster_file() -> str | None:
    """Return the text of this machine's cluster file, or None if there is none."""
    path = CLUSTER_FILE.expanduser()
    return path.read_text(encoding="utf-8") if path.exists() else None


def find_nearest_folder(results: Place) -> Place:
    """Return the nearest folder that exists, so that a file can be written there.

    Args:
        results: The folder of all studies. An object store needs no folders.
    """
    if isinstance(results, Path):
        return next(folder for folder in (results, *results.parents) if folder.exists())
    return results
