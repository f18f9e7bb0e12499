"""The optimizer of fused trainings: one update rule with coefficients per member."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycae.config import Config
from raycae.training.trainer import Training

BETA, BETA_SQUARE, ALPHA, EPSILON = 0.9, 0.999, 0.99, 1e-8
"""Torch's defaults for Adam and RMSprop, which `trainer.make_optimizer` leaves as they are."""
MOMENTS: dict[str, tuple[str | None, str | None]] = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "rmsprop": (None, "square_avg"),
    "sgd": ("momentum_buffer", None),
}
"""What torch's optimizers call their running means of the gradient and of its square."""


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


class FusedOptimizer:
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
        moments = [get_moments(member) for member in members]
        self.first = Rows([first for first, _, _ in moments])
        self.second = Rows([second for _, second, _ in moments])
        self.counters = [counter for _, _, own in moments for counter in own]
        self.counters += [
            batches for member in members for batches in list_batch_counts(member.model)
        ]
        self.taken = [int(own[0]) if own else 0 for _, _, own in moments]
        self.averaged = [int(m.averaged.n_averaged) if m.averaged else 0 for m in members]
        constants = [get_constants(member.config) for member in members]
        self.constants = self.first.numbers.new_tensor(constants).T.unsqueeze(-1)  # (6, M, 1)
        self.n_steps = 0

    def rates(self, n_steps: int) -> Tensor:
        """r, s, q and the share that averages keep, of each step of the epoch: (steps, 4, M, 1).

        Reckoned before the epoch, so that nothing in it waits for a number.
        """
        self.n_steps = n_steps
        of_members = [
            compute_rates(member, n_steps, taken, averaged)
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


def list_batch_counts(network: nn.Module) -> list[Tensor]:
    """Batch norm's counts of minibatches."""
    return [buffer for name, buffer in network.named_buffers() if "num_batches" in name]


def get_moments(member: Training) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
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


def get_constants(config: Config) -> list[float]:
    """l, a, b, c, d, e of `FusedOptimizer`; 1 - β' in float32 would be off in the fifth digit."""
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


def compute_rates(member: Training, n_steps: int, taken: int, averaged: int) -> Tensor:
    """r, s, q of `FusedOptimizer` and the share that the average keeps, (4, steps), float64; before
    the epoch the optimizer has `taken` so many steps, and the average had so many."""
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
