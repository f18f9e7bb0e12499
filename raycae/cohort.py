"""Many trials of one network, trained as one on one stream of minibatches.

Trials that differ in how they are trained (optimizer, learning rate, weight decay, momentum,
schedule, averaging, planned epochs, first weights) share every shape, and where seed and batch size
agree every minibatch too. So M of them are one network M times as wide, whose convolutions have M
groups: a minibatch is gathered and transformed once, and a step launches as many kernels as that of
a single trial.

The order of minibatches depends on the epoch, so a cohort has one clock: its members stand at the
same epoch. Between two epochs each of them is an ordinary `Training`, with all that belongs to it.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from raycae import metrics
from raycae.architecture import architecture, cohort_kind
from raycae.config import Config
from raycae.model import Autoencoder, ConvBlock
from raycae.training import (
    VALIDATION_BATCH,
    Diverged,
    Reference,
    Training,
    forward,
    minibatches,
    rounding,
)

BETA, BETA_SQUARE, ALPHA, EPSILON = 0.9, 0.999, 0.99, 1e-8
"""Torch's defaults for Adam and RMSprop, which `training.optimizer` leaves as they are."""

MOMENTS: dict[str, tuple[str | None, str | None]] = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "rmsprop": (None, "square_avg"),
    "sgd": ("momentum_buffer", None),
}
"""What torch's optimizers call their running means of the gradient and of its square."""

WORTH_IT = 1.1
"""A machine that others use differs by as much from minute to minute, and trials of a cohort wait
for each other: less gain than this is none."""

WARM_STEPS = 3
"""Steps before one is captured: torch's libraries choose their kernels and get their memory."""


class Cohort:
    """Trainings under way, M of them, that run their epochs together.

    `members` have configurations of one `cohort_kind`, the same images, order seed and
    `first_images`, and have trained equally many epochs; else `ValueError`. Their `micro_batch` has
    no say. Who is to leave is left out of the next cohort; who stands at the same epoch may be in
    it, whether it trained alone or in another one. A member that is given another state needs a new
    cohort, too. What a member learns is what it would learn alone, up to the rounding of sums in
    another order, of which `bf16` has more; its neighbours have no part in it.
    """

    def __init__(self, members: Sequence[Training]) -> None:
        if len({_common(member) for member in members}) > 1:
            raise ValueError("members of a cohort differ in more than their weights and training")
        self.members = list(members)
        self.network = widened(members[0].model, len(members))
        self.wide = _by_member(self.network, len(members))
        self.parameters = list(self.network.parameters())
        self.values = Rows([_values(member.model) for member in members])
        self.averages: Rows | None = None
        if any(member.averaged for member in members):
            self.averages = Rows([_values(member.measured) for member in members])
        self.rule = Rule(members)
        self.losses = torch.zeros(len(members), dtype=torch.float64, device=members[0].device)
        self.replay: Replay | None = None
        self.values.copy_to(self.wide)

    def run_epoch(self) -> list[dict[str, Any] | Diverged]:
        """Train all members for one epoch, then validate them.

        Returns for each what `Training.run_epoch` returns, or the `Diverged` that it raises; such a
        member has to be left out of the next cohort. Times are shares: a member's `epoch_time_s` is
        that of the cohort over M.
        """
        begun = time.perf_counter()
        for member in self.members:
            member.epoch += 1
        train_mse = self._train()
        trained = time.perf_counter()
        self._write()
        errors = zip(train_mse, *self._validate(), strict=True)
        said: list[dict[str, Any] | Diverged] = []
        for member, (train, val, psnr_db) in zip(self.members, errors, strict=True):
            try:
                said.append(member.conclude(train, val, psnr_db))
            except Diverged as fault:
                said.append(fault)
        m, n_images = len(self.members), self.members[0].n_images
        times = {
            "epoch_time_s": (time.perf_counter() - begun) / m,
            "images_per_s": n_images / (trained - begun),
        }
        return [one if isinstance(one, Diverged) else one | times for one in said]

    def _train(self) -> list[float]:
        first = self.members[0]
        batches = minibatches(
            first.n_images,
            first.config.batch_size,
            seed=first.order_seed,
            epoch=first.epoch,
            device=first.device,
        )
        self.network.train()
        self.losses.zero_()
        step = self._replayed if first.device.type == "cuda" else self._step
        n_batches = -(-first.n_images // first.config.batch_size)
        with rounding(first.config):
            for rows, rates in zip(batches, self.rule.rates(n_batches), strict=True):
                step(rows, rates)
        return (self.losses / first.n_images).tolist()

    def _step(self, rows: Tensor, rates: Tensor) -> None:
        """One minibatch: `rows` of the images, `rates` (4, M, 1) for it."""
        first, m = self.members[0], len(self.members)
        x, y = first.task.batch(*first.train[rows])
        output = forward(self.network, x, first.config)
        with torch.no_grad():
            apart = output.unflatten(1, (m, -1)) - y.unsqueeze(1)  # (N, M, C, H, W)
            losses = apart.square().mean(dim=(0, 2, 3, 4))
            # Of their sum, by hand: autograd would go over the pictures three times more.
            of_output = apart.mul_(2 / y.numel()).flatten(1, 2)
        gradients = torch.autograd.grad(output, self.parameters, of_output)
        with torch.no_grad():
            gradient = torch.cat([g.reshape(m, -1) for g in gradients], dim=1)
            self.values.read(self.wide, from_=len(self.parameters))  # batch norm has moved them
            self.rule.step(self.values.numbers[:, : gradient.shape[1]], gradient, rates)
            self.values.copy_to(self.wide[: len(self.parameters)])
            if self.averages:
                self.averages.numbers.lerp_(self.values.numbers, 1 - rates[3])
            self.losses += losses * len(rows)  # stays on the device: no wait in the epoch

    def _replayed(self, rows: Tensor, rates: Tensor) -> None:
        """`_step` by a CUDA graph, but for the last, smaller minibatch."""
        if len(rows) < self.members[0].config.batch_size:
            self._step(rows, rates)
            return
        self.replay = self.replay or Replay()
        self.replay(self._step, rows, rates)

    @torch.inference_mode()
    def _validate(self) -> tuple[list[float], list[float]]:
        """The task's MSE and the PSNR (dB) of each member, as `training.errors` has them."""
        first, m = self.members[0], len(self.members)
        network = self.network
        if self.averages:
            network = copy.deepcopy(network)
            self.averages.copy_to(_by_member(network, m))
        network.eval()
        mse = torch.zeros(m, device=first.device, dtype=torch.float64)
        psnr_db = torch.zeros_like(mse)
        # As many as a minibatch holds always go: training had their gradients in memory, too.
        at_once = max(VALIDATION_BATCH // m, first.config.batch_size)
        for batch, rgb in Reference(first.val, at_once):
            x, y = first.task.batch(*batch)
            output = network(x)
            mse += _errors(output, y, m).sum(0)
            each = output.unflatten(1, (m, -1)).flatten(0, 1)  # (N M, C, H, W)
            images, truth = (t.repeat_interleave(m, dim=0) for t in (batch[0], rgb))
            psnr_db += metrics.psnr_db(first.task.picture(images, each), truth).view(-1, m).sum(0)
        n = len(first.val)
        return (mse / n).tolist(), (psnr_db / n).tolist()

    def _write(self) -> None:
        """All that was learnt back to the members."""
        self.values.write()
        if self.averages:
            self.averages.write()
        self.rule.write()


class Fusing(NamedTuple):
    """How many trials of a network to train as one, and why."""

    m: int
    """1: each alone."""
    n_bytes: int
    """Predicted for a cohort of the size that was measured."""
    speedup: float
    """Its speed over that of as many trials one after the other; 1 where nothing was measured."""
    why: str


def fusing(config: Config, most: int, train: TensorDataset, memory_bytes: int) -> Fusing:
    """Whether cohorts of at most `most` trials like `config` pay, on the device of `train`.

    The size is halved until the prediction fits into `memory_bytes` and a few steps, fused and
    alone by turns, say that it pays. Measuring a size takes as long as some 12 m steps.
    """
    m = most
    while m > 1 and predicted_bytes(config, m) > memory_bytes:
        m //= 2
    if m < 2:
        n_bytes = predicted_bytes(config, 2)
        needed = f"{n_bytes / 1e6:,.0f} MB, and there are {memory_bytes / 1e6:,.0f}"
        why = f"two as one would take {needed}" if most > 1 else "there is but one"
        return Fusing(1, n_bytes, 1.0, f"each alone: {why}")
    while True:
        speedup, n_bytes = _speedup(config, m, train), predicted_bytes(config, m)
        said = f"{m} as one train {speedup:.2f} times as fast as one after the other"
        if speedup >= WORTH_IT:
            return Fusing(m, n_bytes, speedup, said)
        if m < 4:
            return Fusing(1, n_bytes, speedup, f"each alone: {said}")
        m //= 2


def room_bytes(device: torch.device) -> int:
    """What a cohort may take: most of what a GPU has free; a quarter of a host's memory."""
    if device.type == "cuda":
        return int(0.8 * torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def predicted_bytes(config: Config, m: int) -> int:
    """What a cohort of `m` takes beside its images: of each map its values, what the activation
    makes of them and their gradient; of each weight those of cohort, members and best epoch, the
    gradient, and two moments twice."""
    net = architecture(config)
    maps = sum(math.prod(layer.out_shape) for layer in net.layers) + math.prod(net.in_shape)
    return 4 * m * (3 * config.batch_size * maps + 10 * net.n_params)


def _speedup(config: Config, m: int, train: TensorDataset) -> float:
    few = TensorDataset(*(t[: 4 * config.batch_size] for t in train.tensors))
    one, *members = (Training(config, few, few, epochs=4) for _ in range(m + 1))
    cohort = Cohort(members)
    alone_s, fused_s = [], []
    for epoch in range(1, 4):
        begun = time.perf_counter()
        one.epoch = epoch
        one._train()
        between = time.perf_counter()
        for member in members:
            member.epoch = epoch
        cohort._train()
        alone_s.append(between - begun)
        fused_s.append(time.perf_counter() - between)
    return m * min(alone_s[1:]) / min(fused_s[1:])  # the first epoch warms up


class Rows:
    """Tensors that M members have alike, all numbers of a member in one row of `numbers` (M, n)."""

    def __init__(self, tensors: Sequence[Sequence[Tensor]]) -> None:
        self.tensors = tensors
        self.numbers = torch.stack(
            [torch.cat([t.detach().flatten() for t in of]) for of in tensors]
        )
        parts = self.numbers.split([t.numel() for t in tensors[0]], dim=1)
        self.by_tensor = [
            part.view(-1, *t.shape) for part, t in zip(parts, tensors[0], strict=True)
        ]

    @torch.no_grad()
    def copy_to(self, wide: list[Tensor]) -> None:
        """The first tensors to `wide`, each (M, …)."""
        torch._foreach_copy_(wide, self.by_tensor[: len(wide)])

    def read(self, wide: list[Tensor], *, from_: int) -> None:
        """The tensors from number `from_` on, from `wide`, each (M, …)."""
        if len(wide) > from_:
            torch._foreach_copy_(self.by_tensor[from_:], wide[from_:])

    @torch.no_grad()
    def write(self) -> None:
        """Back to where they came from."""
        own = [t for of in self.tensors for t in of]
        rows = [t[m] for m in range(len(self.tensors)) for t in self.by_tensor]
        torch._foreach_copy_(own, rows)


class Rule:
    """Adam, AdamW, RMSprop and SGD, one rule with other coefficients for each member::

        g ← g + l w      m ← a m + b g      v ← c v + d g²      w ← s w - r m / (q √v + e)

    |         | a | b     | c  | d      | r             | s         | q            | e    |
    |---------|---|-------|----|--------|---------------|-----------|--------------|------|
    | Adam    | β | 1 - β | β' | 1 - β' | lr / (1 - βᵗ) | 1         | (1 - β'ᵗ)^-½ | 1e-8 |
    | AdamW   | β | 1 - β | β' | 1 - β' | lr / (1 - βᵗ) | 1 - lr l' | (1 - β'ᵗ)^-½ | 1e-8 |
    | RMSprop | 0 | 1     | α  | 1 - α  | lr            | 1         | 1            | 1e-8 |
    | SGD     | μ | 1     | 0  | 0      | lr            | 1         | 0            | 1    |

    l is the weight decay, of AdamW l'; β, β', α and 1e-8 are torch's defaults. So a cohort may hold
    all four. What each member's own optimizer keeps is read from it, and written back.
    """

    def __init__(self, members: Sequence[Training]) -> None:
        self.members = members
        moments = [_moments(member) for member in members]
        self.first = Rows([first for first, _, _ in moments])
        self.second = Rows([second for _, second, _ in moments])
        self.counters = [counter for _, _, own in moments for counter in own]
        self.counters += [batches for member in members for batches in _batches(member.model)]
        self.taken = [int(own[0]) if own else 0 for _, _, own in moments]
        self.averaged = [int(m.averaged.n_averaged) if m.averaged else 0 for m in members]
        constants = [_constants(member.config) for member in members]
        self.constants = self.first.numbers.new_tensor(constants).T.unsqueeze(-1)  # (6, M, 1)
        self.n_steps = 0

    def rates(self, n_steps: int) -> Tensor:
        """r, s, q and the share that averages keep, of each step of the epoch: (steps, 4, M, 1).

        Reckoned before the epoch, so that nothing in it waits for a number.
        """
        self.n_steps = n_steps
        of_members = [
            _rates(member, n_steps, taken, averaged)
            for member, taken, averaged in zip(self.members, self.taken, self.averaged, strict=True)
        ]
        table = torch.stack(of_members, dim=-1).transpose(0, 1).unsqueeze(-1)
        return table.to(self.first.numbers)

    def step(self, w: Tensor, g: Tensor, rates: Tensor) -> None:
        """`w` (M, numbers) one step on, in place, by the gradient `g`."""
        l2, a, b, c, d, e = self.constants
        r, s, q, _ = rates
        m, v = self.first.numbers, self.second.numbers
        g = g.addcmul(w, l2)
        m.mul_(a).addcmul_(g, b)
        v.mul_(c).addcmul_(g * d, g)
        w.mul_(s).addcdiv_(m * r, v.sqrt().mul_(q).add_(e), value=-1)

    @torch.no_grad()
    def write(self) -> None:
        """The moments and the counts of the epoch's steps back to the members."""
        self.first.write()
        self.second.write()
        if self.counters:
            torch._foreach_add_(self.counters, self.n_steps)
        for i, member in enumerate(self.members):
            self.taken[i] += self.n_steps
            if member.averaged:
                self.averaged[i] += self.n_steps
                member.averaged.n_averaged += self.n_steps


class Replay:
    """A step captured as a CUDA graph: one launch instead of hundreds.

    The first steps run as they are, on a stream of their own, as its warm-up. No GPU was at hand
    when this was written: it has never run.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.warm = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Callable[[Tensor, Tensor], None], *inputs: Tensor) -> None:
        """What `step` does with `inputs`; at every call the same step, with inputs of one shape."""
        if self.warm < WARM_STEPS:
            self.warm += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                step(*inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if self.graph is None:
            self.inputs = [given.clone() for given in inputs]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                step(*self.inputs)
        for kept, given in zip(self.inputs, inputs, strict=True):
            kept.copy_(given)
        self.graph.replay()


class MemberwiseLinear(nn.Module):
    """M linear maps side by side: (…, M in) to (…, M out)."""

    def __init__(self, linear: nn.Linear, m: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.repeat(m, 1))
        self.bias = nn.Parameter(linear.bias.repeat(m))
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        each = x.unflatten(-1, (self.m, -1))  # (…, M, in)
        weight = self.weight.unflatten(0, (self.m, -1))  # (M, out, in)
        return torch.einsum("...mi,moi->...mo", each, weight).flatten(-2) + self.bias


def widened(network: Autoencoder, m: int) -> Autoencoder:
    """`network` M times side by side: x (N, C, H, W), which all share, to x_hat (N, M C', H, W).

    Its parameters and statistics have the names of the network's, and those of all members one
    behind the other in their first dimension.
    """
    wide = copy.deepcopy(network)
    first = cast(ConvBlock, wide.encoder[0])
    shared: list[nn.Module] = [first.conv]
    if first.residual:  # x itself is added to what each member makes of it
        shared = []
        first.register_forward_pre_hook(lambda _, inputs: _repeated(inputs[0], m))
    for module in wide.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.Linear):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if tensor.dim():
                    many = tensor.detach().repeat(m, *[1] * (tensor.dim() - 1)).contiguous()
                    setattr(module, name, nn.Parameter(many) if tensor.requires_grad else many)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module not in shared:
            module.groups = m
    if wide.linear and network.linear:
        memberwise = MemberwiseLinear(network.linear.to_picture, m)
        wide.linear.register_module("to_picture", memberwise)
    return wide


def _repeated(x: Tensor, m: int) -> Tensor:
    return x.repeat(1, m, 1, 1).contiguous(memory_format=torch.channels_last)


def _values(network: nn.Module) -> list[Tensor]:
    """Weights, and behind them batch norm's running statistics."""
    statistics = [buffer for name, buffer in network.named_buffers() if "running" in name]
    return [*network.parameters(), *statistics]


def _batches(network: nn.Module) -> list[Tensor]:
    """Batch norm's counts of minibatches."""
    return [buffer for name, buffer in network.named_buffers() if "num_batches" in name]


def _by_member(wide: Autoencoder, m: int) -> list[Tensor]:
    """The memory of `_values` of a wide network, each as (M, …)."""
    return [t.detach().unflatten(0, (m, -1)) for t in _values(wide)]


def _errors(output: Tensor, y: Tensor, m: int) -> Tensor:
    """MSE (N, M) of `output` (N, M C, H, W) from `y` (N, C, H, W)."""
    return (output.unflatten(1, (m, -1)) - y.unsqueeze(1)).square().mean(dim=(2, 3, 4))


def _common(member: Training) -> Hashable:
    images = id(member.train), id(member.val), member.first_images, member.order_seed
    return cohort_kind(member.config), images, member.epoch


def _moments(member: Training) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What the member's optimizer keeps: means of the gradient, of its square, counts of steps;
    begun where it has not taken a step, and a stand-in for what it does not keep."""
    names = MOMENTS[member.config.optimizer]
    if not member.config.momentum and member.config.optimizer == "sgd":
        names = None, None
    moments: tuple[list[Tensor], list[Tensor]] = [], []
    counters = []
    for weight in member.model.parameters():
        state = member.optimizer.state[weight]
        for name, kept in zip(names, moments, strict=True):
            begun = torch.zeros_like(weight)
            kept.append(state.setdefault(name, begun) if name else begun)
        if member.config.optimizer != "sgd":
            on_device = member.device if names[0] else None  # torch's fused forms count there
            counters.append(state.setdefault("step", torch.zeros((), device=on_device)))
    return *moments, counters


def _constants(config: Config) -> list[float]:
    """l, a, b, c, d, e of `Rule`; 1 - β' in float32 would be off in the fifth digit."""
    l2 = config.weight_decay
    match config.optimizer:
        case "adam":
            return [l2, BETA, 1 - BETA, BETA_SQUARE, 1 - BETA_SQUARE, EPSILON]
        case "adamw":
            return [0.0, BETA, 1 - BETA, BETA_SQUARE, 1 - BETA_SQUARE, EPSILON]
        case "rmsprop":
            return [l2, 0.0, 1.0, ALPHA, 1 - ALPHA, EPSILON]
        case "sgd":
            return [l2, config.momentum, 1.0, 0.0, 0.0, 1.0]


def _rates(member: Training, n_steps: int, taken: int, averaged: int) -> Tensor:
    """r, s, q of `Rule` and the share that the average keeps, (4, steps), float64; before the
    epoch the optimizer has `taken` so many steps, and the average had so many."""
    config = member.config
    step = torch.arange(n_steps, dtype=torch.float64)
    rate = torch.full_like(step, config.lr)
    if config.schedule == "cosine":
        done = (member.epoch - 1 + step / n_steps) / member.epochs
        rate *= (1 + torch.cos(math.pi * done)) / 2
    shrink, root = torch.ones_like(step), torch.ones_like(step)
    if config.optimizer == "adamw":
        shrink -= rate * config.weight_decay
    if config.optimizer in ("adam", "adamw"):
        count = taken + step + 1
        rate = rate / (1 - BETA**count)
        root = (1 - BETA_SQUARE**count).rsqrt()
    if config.optimizer == "sgd":
        root = torch.zeros_like(step)
    count = averaged + step
    keep = ((1 + count) / (10 + count)).clamp(max=config.averaging)
    keep[count == 0] = 0
    return torch.stack([rate, shrink, root, keep])
