"""What a GPU does differently, as far as it can be tested on a CPU."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from raycae.config import resolve
from raycae.execution import trainable
from raycae.model.architecture import build_architecture
from raycae.model.weights import encode_weights
from raycae.study.attempt import Attempt
from raycae.training import fusion_size
from raycae.training.device import copy_packed, copy_to_cpu, put_on_device
from raycae.training.fused import FusedTrainings, Replay
from raycae.training.trainer import Training

TINY: dict[str, Any] = {"image_size": 8, "channels": [4, 5], "latent_channels": 4, "batch_size": 16}
GPU = torch.device("cuda")


def make_training(n: int = 40, **settings: Any) -> Training:
    """Make a training on noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), np.uint8)
    images = put_on_device(pixels, torch.device("cpu"))
    return Training(resolve({**TINY, **settings}), images, images, epochs=3)


def test_packed_copies() -> None:
    """Oracle: the tensors themselves. Copies have their strides, and none shares memory."""
    tensors = [
        torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last),
        torch.randn(()),
        torch.randn(7, 2),
        torch.nn.Parameter(torch.randn(2, 3, 1, 1)),
    ]
    copies = copy_packed(tensors)
    assert [t.stride() for t in copies] == [t.stride() for t in tensors]
    assert all(torch.equal(a, b) for a, b in zip(copies, tensors, strict=True))
    assert len({t.untyped_storage().data_ptr() for t in copies}) == len(copies)
    assert [t.untyped_storage().nbytes() for t in copies] == [4 * t.numel() for t in tensors]
    assert not any(t.requires_grad for t in copies)


def test_a_state_copied_to_the_cpu() -> None:
    """Oracle: the state itself, which is not changed by what is learned after the copy."""
    training = make_training(optimizer="adam", averaging=0.9)
    training.run_epoch()
    state = {"optimizer": training.optimizer.state_dict(), "epoch": 1, "none": None, "list": [1, 2]}
    copy = copy_to_cpu(state)
    moments = state["optimizer"]["state"][0]["exp_avg"].clone()
    training.run_epoch()
    assert torch.equal(copy["optimizer"]["state"][0]["exp_avg"], moments)
    assert copy["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    assert (copy["epoch"], copy["none"], copy["list"]) == (1, None, [1, 2])


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_a_packed_state_continues(optimizer: str) -> None:
    """Oracle: the training that was not interrupted, to the bit. The tensors of its state are
    packed as those of a GPU are."""
    training = make_training(optimizer=optimizer)
    training.run_epoch()
    state = torch.load(io.BytesIO(training.state()), weights_only=True)
    leaves, structure = tree_flatten(state)
    for kind in {t.dtype for t in leaves if isinstance(t, Tensor)}:
        places = [i for i, t in enumerate(leaves) if isinstance(t, Tensor) and t.dtype == kind]
        for i, copy in zip(places, copy_packed([leaves[i] for i in places]), strict=True):
            leaves[i] = copy
    packed = tree_unflatten(leaves, structure)
    assert encode_weights(packed["best_weights"]) == encode_weights(training.best_weights)
    buffer = io.BytesIO()
    torch.save(packed, buffer)
    resumed = make_training(optimizer=optimizer)
    resumed.load_state(buffer.getvalue())
    assert training.run_epoch()["val_mse"] == resumed.run_epoch()["val_mse"]


def test_memory_of_a_share_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. Four workers that share a GPU do not take more than it has, and what this
    worker has reserved for earlier groups counts as free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (600, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 150)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 50)
    assert fusion_size.get_available_bytes(GPU, 0.25) == int(0.8 * (250 - 50))
    assert fusion_size.get_available_bytes(GPU, 1) == int(0.8 * (600 + 100))
    assert fusion_size.get_available_bytes(GPU, 2) == int(0.8 * (600 + 100))


def test_predicted_memory_on_a_gpu() -> None:
    """Oracle: the definition. Feature maps count twice, and the libraries need memory, too."""
    config = resolve(TINY)
    devices = torch.device("cpu"), GPU
    on_cpu, on_gpu = (fusion_size.predict_bytes(config, 4, device) for device in devices)
    shapes = [layer.out_shape for layer in build_architecture(config).layers]
    n_values = 3 * 8 * 8 + sum(math.prod(shape) for shape in shapes)
    n_bytes = 4 * 3 * 4 * config.batch_size * n_values
    assert on_gpu - on_cpu == n_bytes + fusion_size.GPU_WORKSPACE_BYTES


class FakeGraph:
    """A CUDA graph that records the inputs of a step and runs it on their present values."""

    recording: FakeGraph | None = None

    def __init__(self) -> None:
        self.inputs: tuple[Tensor, ...] = ()
        self.done: list[float] = []

    def replay(self) -> None:
        """Run the step on what is now in the recorded inputs."""
        self.done.append(float(sum(t.sum() for t in self.inputs)))


def test_replay_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the step on each input. After the warm-up it is recorded once; each further call sees
    new values at the recorded address; a step with fewer rows runs as it is."""
    done: list[float] = []

    @contextmanager
    def record(graph: FakeGraph, stream: object) -> Iterator[None]:
        graph.done = done
        FakeGraph.recording = graph
        yield
        FakeGraph.recording = None

    class Stream:
        def wait_stream(self, other: object) -> None:
            pass

    @contextmanager
    def use(stream: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", use)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    recorded = []

    def step(*inputs: Tensor) -> None:
        if FakeGraph.recording:
            recorded.append(inputs)
            FakeGraph.recording.inputs = inputs
        else:
            done.append(float(sum(t.sum() for t in inputs)))

    replay = Replay(4)
    batches = [torch.randn(4 if i % 5 else 3, 2) for i in range(20)]
    for batch in batches:
        replay(step, batch, 2 * batch)
    assert len(recorded) == 1
    assert done == pytest.approx([float(3 * batch.sum()) for batch in batches], abs=1e-5)


def test_a_group_of_one() -> None:
    """Oracle: the training alone, up to the rounding of sums in another order."""
    alone, member = make_training(), make_training()
    group = FusedTrainings([member])
    for _ in range(2):
        expected = alone.run_epoch()
        (measured,) = group.run_epoch()
        assert isinstance(measured, dict)
        assert measured["val_mse"] == pytest.approx(expected["val_mse"], rel=1e-4)
        assert measured["val_psnr_db"] == pytest.approx(expected["val_psnr_db"], rel=1e-4)


@pytest.mark.parametrize(
    ("device", "micro_batch", "is_fused"),
    [("cuda", None, True), ("cuda", 8, False), ("cpu", None, False)],
)
def test_who_is_captured(
    device: str, micro_batch: int | None, is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the classes that ran. On a GPU a trial alone is a group of one, whose steps are
    captured, unless memory ran out before."""
    groups = []

    class Spy(FusedTrainings):
        def __init__(self, members: Any) -> None:
            groups.append(len(members))
            super().__init__(members)

    monkeypatch.setattr(trainable, "FusedTrainings", Spy)
    worker = object.__new__(trainable.AutoencoderTrainable)
    worker.device = torch.device(device)
    attempt = Attempt(0, 1, resolve(TINY), 0, micro_batch)
    worker.attempts, worker.groups, worker.too_large = {0: attempt}, {}, set()
    monkeypatch.setattr(worker, "_save_epoch", lambda number, training, measured: measured)
    training = make_training()
    for _ in range(2):
        worker._run_epoch((0,), [training])
    assert groups == [1] * is_fused
    assert training.epoch == 2


def test_a_trial_too_large_to_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the training that ran. Graphs need more memory than eager steps: a trial for which
    they have too little is trained eagerly, from its checkpoint, before it is called too large."""

    class Full(FusedTrainings):
        def run_epoch(self) -> list[Any]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainable, "FusedTrainings", Full)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    worker = object.__new__(trainable.AutoencoderTrainable)
    worker.device, worker.host = GPU, "host"
    worker.attempts, worker.groups, worker.too_large = (
        {0: Attempt(0, 1, resolve(TINY), 0)},
        {},
        set(),
    )
    worker.trainings = {}
    opened = []

    def open_training(number: int) -> Training:
        if number not in worker.trainings:
            opened.append(number)
            worker.trainings[number] = make_training()
        return worker.trainings[number]

    monkeypatch.setattr(worker, "_open_training", open_training)
    monkeypatch.setattr(worker, "_save_epoch", lambda number, training, measured: measured)
    for epoch in (1, 2):
        (measured,) = worker._train_epoch((0,))
        assert measured["epoch"] == epoch
    assert opened == [0, 0]
