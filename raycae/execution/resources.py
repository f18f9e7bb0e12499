"""What the nodes of a cluster have, what its autoscaler may add to them, and whether they see what
this machine writes: asked before the first trial, within seconds.

Ray is imported by whoever has joined it.
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
"""What `ray up` leaves on the head for the autoscaler: the cluster file, filled with what a machine
of each type has. Ray itself tells nobody what its autoscaler may start."""
HEAD = "node:__internal_head__"
ASKED_S = 60.0
"""A node whose processes take longer than that to start is none to search on."""
FRESH_S = 2.0
"""For so long nodes are taken to be what they were."""


@dataclass(frozen=True)
class NodeType:
    """Machines of one kind, of which at most `most` run at a time. Without `resources` Ray finds
    out what a machine has once it has joined."""

    resources: Mapping[str, float]
    most: int


@dataclass(frozen=True)
class Autoscaler:
    """What may be started: of each of the `types`, and at most `most` machines of all of them."""

    types: Sequence[NodeType] = ()
    most: int = 0

    @classmethod
    def of(cls, cluster_file: Mapping[str, Any]) -> Autoscaler:
        """What a launcher's file says of workers, once `ray up` has filled it in."""
        most = cluster_file.get("max_workers", 0)
        head = cluster_file.get("head_node_type")
        types = [
            NodeType(kind.get("resources") or {}, kind.get("max_workers", most))
            for name, kind in cluster_file.get("available_node_types", {}).items()
            # The one type of the provider `local` is its head's and its workers'.
            if name != head or cluster_file["provider"]["type"] == "local"
        ]
        return cls(types, most)

    def places(self, cpus: int, gpus: float) -> int:
        """How many trials fit on the machines that may run, the roomiest of them."""
        each = [
            n
            for kind in self.types
            for n in [count_trial_slots(kind.resources, cpus, gpus)] * kind.most
        ]
        return sum(sorted(each, reverse=True)[: self.most])


class TrialSlots:
    """What a trial asks for, and how many run at a time: `concurrent`, or as many as there is room
    for, on the nodes that are there and on those that the autoscaler may start.

    `gpus=None`: one, if there is any. Raises `InputError` for a trial that fits on no node: it
    would wait for ever.
    """

    def __init__(
        self, cpus: int, gpus: float | None, concurrent: int | None, autoscaler: Autoscaler
    ) -> None:
        known = [*list_alive_nodes().values(), *(kind.resources for kind in autoscaler.types)]
        if gpus is None:
            gpus = 1 if any(node.get("GPU") for node in known) else 0
        if gpus > 1 and gpus != int(gpus):
            raise InputError(
                f"--gpus-per-trial {gpus:g}: a share of one, or a whole number of them"
            )
        self.cpus, self.gpus = cpus, gpus
        self._concurrent, self._autoscaler = concurrent, autoscaler
        self._counted_at, self._counted = 0.0, 0
        if not any(count_trial_slots(node, cpus, gpus) for node in known):
            raise InputError(self._too_much())

    def places(self) -> int:
        """Trials at a time, now: nodes come and go. At least one, so that the autoscaler hears of
        it where none is left."""
        if self._concurrent:
            return self._concurrent
        now = time.monotonic()
        if now - self._counted_at > FRESH_S:
            there = sum(
                count_trial_slots(node, self.cpus, self.gpus)
                for node in list_alive_nodes().values()
            )
            self._counted = max(there, self._autoscaler.places(self.cpus, self.gpus), 1)
            self._counted_at = now
        return self._counted

    def _too_much(self) -> str:
        def had(nodes: Sequence[Mapping[str, float]]) -> str:
            kinds = sorted({(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes})
            return "; ".join(f"{cpus:g} CPU, {gpus:g} GPU" for cpus, gpus in kinds)

        there = list(list_alive_nodes().values())
        known = [kind.resources for kind in self._autoscaler.types if kind.resources]
        unknown = sum(kind.most for kind in self._autoscaler.types if not kind.resources)
        message = (
            f"--cpus-per-trial {self.cpus} --gpus-per-trial {self.gpus:g}: no node has that much; "
            f"there is: {had(there)}"
        )
        if known:
            message += f"; the autoscaler may start: {had(known)}"
        if unknown > len(there) - 1:
            message += f"; yet to join: {unknown - len(there) + 1} (see `ray status`)"
        return message


def count_trial_slots(resources: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many trials fit on a node that has these."""
    n_cpus = resources.get("CPU", 0) // cpus
    if not gpus:
        return int(n_cpus)
    n_gpus = resources.get("GPU", 0)  # a share of a GPU lies on one; 0.4 fits twice on each
    return int(min(n_cpus, n_gpus // gpus if gpus >= 1 else n_gpus * int(1 / gpus + 1e-9)))


def list_alive_nodes() -> dict[str, Mapping[str, float]]:
    """What each node of the cluster has, by the node's id."""
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
                    f"--results {results}: node {names[node]} does not see what is written there "
                    f"from here ({blind}); take a folder that all nodes share, or an object store: "
                    "s3://BUCKET/PATH"
                )
            files.append(file)
    for text in filter(None, files):
        return Autoscaler.of(yaml.safe_load(text))
    return Autoscaler()


def _require_same_package(names: Mapping[str, str]) -> None:
    """Raise `InputError` unless every node imports the raycae that this process runs."""
    identify = _make_identify()
    folder, version, digest = identify()
    for node, found in _ask_nodes(list(names), names, identify).items():
        if found is None:
            raise InputError(
                f"node {names[node]}: there is no raycae that its workers can import; this process "
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
            version = "without a version"
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
    """Why the marker is not seen here, or None; this node's cluster file."""
    with retry_policy.of(lambda note: None, over=lambda: True):  # somebody waits for the answer
        try:
            resolve_place(marker).read_bytes()
        except FileNotFoundError:
            return "it is not there", None
        except (InputError, StorageError) as error:
            return str(error), None
    return None, read_cluster_file()


def read_cluster_file() -> str | None:
    path = CLUSTER_FILE.expanduser()
    return path.read_text(encoding="utf-8") if path.exists() else None


def find_nearest_folder(results: Place) -> Place:
    """The results' folder, or what there is of the way to it."""
    if isinstance(results, Path):
        return next(folder for folder in (results, *results.parents) if folder.exists())
    return results
