"""Networks that are evaluated at the same time: one core each, and nothing is left behind."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest
import torch

from raycae.training.device import run_in_parallel

CPU = torch.device("cpu")


def observe(barrier: threading.Barrier) -> tuple[int, int, float]:
    """Return the thread, its number of OpenMP threads, and the least float32 above zero, times one.

    It waits for the other task, so both run at the same time.
    """
    barrier.wait(timeout=60)
    least = torch.full((64,), 1e-45) * torch.ones(64)
    return threading.get_ident(), torch.get_num_threads(), float(least.sum())


def test_networks_run_in_parallel_with_one_core_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the two threads meet at a barrier. Each computes on one core and without denormal
    numbers. Afterwards this thread, and a thread that starts later, have their two cores again."""
    monkeypatch.setattr("raycae.training.device.count_cpus", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    barrier = threading.Barrier(2)
    try:
        with run_in_parallel(CPU, 2) as pool:
            first, second = pool.map(observe, [barrier, barrier])
        assert first[0] != second[0]
        assert first[1:] == second[1:] == (1, 0.0)
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert [torch.get_num_threads(), *later] == [2, 2]
    finally:
        torch.set_num_threads(before)


def test_an_error_cancels_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. One thread has begun the first of three tasks when the context is left; the
    others never run."""
    monkeypatch.setattr("raycae.training.device.count_cpus", lambda: 1)
    begun, may_end = threading.Event(), threading.Event()
    ran: list[int] = []

    def task(number: int) -> None:
        begun.set()
        may_end.wait(timeout=60)
        ran.append(number)

    tasks: list[Future[None]] = []

    def leave_early() -> None:
        with run_in_parallel(CPU, 3) as pool:
            tasks.extend(pool.submit(task, number) for number in range(3))
            assert begun.wait(timeout=60)
            threading.Timer(0.2, may_end.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave_early()
    assert ran == [0]
    assert [task.cancelled() for task in tasks] == [False, True, True]


@pytest.mark.parametrize(
    ("n_cpus", "n_tasks", "n_networks", "cores"),
    [(2, 10, 2, 1), (2, 1, 1, 2), (16, 6, 6, 2), (64, 20, 8, 8), (1, 3, 1, 1)],
)
def test_few_networks_share_all_cores(
    monkeypatch: pytest.MonkeyPatch, n_cpus: int, n_tasks: int, n_networks: int, cores: int
) -> None:
    """Oracle: by hand; a network gets an equal share of the cores."""
    monkeypatch.setattr("raycae.training.device.count_cpus", lambda: n_cpus)
    with run_in_parallel(CPU, n_tasks) as pool:
        assert pool._max_workers == n_networks
        assert pool.submit(torch.get_num_threads).result() == cores
