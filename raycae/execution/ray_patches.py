"""Changes to the private parts of Ray that a search needs, all in one place.

Ray has no setting for any of them. `apply_ray_patches` is called by `connect_ray` before a driver
connects to Ray.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UNNEEDED = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of Ray's `Node` that `start_fewer_processes` replaces."""


@functools.cache
def apply_ray_patches() -> None:
    """Change Ray in this process, once."""
    silence_error_messages()
    treat_ray_errors_as_lost_workers()
    send_no_environment()


def silence_error_messages() -> None:
    """Stop the driver from printing errors of lost nodes and workers.

    Ray prints them even with `log_to_driver=False`; raycae reports lost workers itself.
    """
    import ray

    ray._private.worker.listen_error_messages = lambda *_: None


def treat_ray_errors_as_lost_workers() -> None:
    """Let a search survive a worker that the host's memory monitor has killed.

    Ray raises an `OutOfMemoryError` then. Tune expects a `RayActorError` or a `RayTaskError` and
    ends the whole search at any other error of Ray.
    """
    from ray.air.execution._internal import RayActorManager
    from ray.exceptions import RayActorError, RayError, RayTaskError

    handle_failure = RayActorManager._actor_task_failed
    known_errors = (RayTaskError, RayActorError)

    def handle_any_failure(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, known_errors):
            exception = RayActorError(error_msg=str(exception))
        handle_failure(manager, tracked_actor_task=tracked_actor_task, exception=exception)

    RayActorManager._actor_task_failed = handle_any_failure


def send_no_environment() -> None:
    """Stop Tune from sending environment variables with each trial.

    Some of them are the keys of an object store, which Ray writes to its log in clear text. Each
    node has its own. Besides, Ray does not use the workers that it has started in advance for
    actors with environment variables. A search would start 1.5 s later (analysis/FINDINGS.md).
    """
    import ray
    from ray.tune.execution.class_cache import _ActorClassCache

    def get(self: Any, trainable: type) -> Any:
        if trainable not in self._cache:
            self._cache[trainable] = ray.remote(trainable)
        return self._cache[trainable]

    _ActorClassCache.get = get


@contextmanager
def start_fewer_processes() -> Iterator[None]:
    """Let `ray.init` start no process inside that a search on one machine does not need.

    These are the API server of the dashboard, the monitor of the autoscaler and the log monitor.
    Each is a Python process that imports much of Ray while the workers start.
    """
    from ray._private.node import Node

    def skip(self: Any, **_: object) -> None:
        self._webui_url = self._webui_url or ""  # The API server would have set it.

    names = [name for name in UNNEEDED if hasattr(Node, name)]
    starters = {name: getattr(Node, name) for name in names}
    for name in names:
        setattr(Node, name, skip)
    try:
        yield
    finally:
        for name, starter in starters.items():
            setattr(Node, name, starter)


def make_isolated_job_config() -> Any:
    """Make a job configuration whose workers do not import from this driver's folders.

    `ray.init` inserts the driver's current folder and the folder of its script before all others
    on the `sys.path` of each worker, unless the job has its own working directory.
    """
    from ray.job_config import JobConfig

    class IsolatedJobConfig(JobConfig):  # type: ignore[misc]
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return IsolatedJobConfig()
