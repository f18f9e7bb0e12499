"""The optimizer of fused trainings: one update rule with coefficients per member."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycae.config import Config
from raycae.training.trainer import Training

BETA, BETA_SQUARE, ALPHA, EPSILON = 0.9, 0.999, 0.99, 1e-8
"""Torch's defaults for Adam and RMSprop, which `trainer.make_optimizer` does not change."""
MOMENTS: dict[str, tuple[str | None, str | None]] = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "rmsprop": (None, "square_avg"),
    "sgd": ("momentum_buffer", None),
}
"""Names in torch's optimizers of the running means of the gradient and of its square."""


class Rows:
    """Tensors of M members, all values of a member in one row.

    Attributes:
        tensors: The tensors of each member.
        numbers: Copies of all values, float (M, n).
        by_tensor: Views of `numbers` in the shapes of the tensors, each (M, …).
    """

    def __init__(self, tensors: Sequence[Sequence[Tensor]]) -> None:
        self.tensors = tensors
        self.numbers = torch.stack(
            [torch.cat([t.detach().flatten() for t in of]) for of in tensors]
        )
        parts = self.numbers.split([t.numel() for t in tensors[0]], dim=1)
        self.by_tensor = [
            part.view(-1, *t.shape) for part, t in zip(parts, tensors[0], strict=True)
        ]
        by_member = zip(*(t.unbind() for t in self.by_tensor), strict=True)
        self._rows = [t for row in by_member for t in row]

    @torch.no_grad()
    def copy_to(self, wide: list[Tensor]) -> None:
        """Copy the first tensors into a wide network.

        Args:
            wide: Tensors of the wide network, each (M, …).
        """
        torch._foreach_copy_(wide, self.by_tensor[: len(wide)])

    def copy_from(self, wide: list[Tensor], *, start: int) -> None:
        """Copy the last tensors from a wide network.

        Args:
            wide: Tensors of the wide network, each (M, …).
            start: Index of the first tensor to copy.
        """
        if len(wide) > start:
            torch._foreach_copy_(self.by_tensor[start:], wide[start:])

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy all values back to the members' tensors."""
        tensors = [tensor for member in self.tensors for tensor in member]
        torch._foreach_copy_(tensors, self._rows)


class FusedOptimizer:
    """Adam, AdamW, RMSprop and SGD as one rule with other coefficients for each member.

    ::

        g ← g + l w      m ← a m + b g      v ← c v + d g²      w ← s w - r m / (q √v + e)

    |         | a | b     | c  | d      | r             | s         | q            | e    |
    |---------|---|-------|----|--------|---------------|-----------|--------------|------|
    | Adam    | β | 1 - β | β' | 1 - β' | lr / (1 - βᵗ) | 1         | (1 - β'ᵗ)^-½ | 1e-8 |
    | AdamW   | β | 1 - β | β' | 1 - β' | lr / (1 - βᵗ) | 1 - lr l' | (1 - β'ᵗ)^-½ | 1e-8 |
    | RMSprop | 0 | 1     | α  | 1 - α  | lr            | 1         | 1            | 1e-8 |
    | SGD     | μ | 1     | 0  | 0      | lr            | 1         | 0            | 1    |

    l is the weight decay, l' that of AdamW; β, β', α and 1e-8 are torch's defaults. So all four can
    be fused. The state of each member's own optimizer is read at the start and written back.

    Args:
        members: The trainings.
    """

    def __init__(self, members: Sequence[Training]) -> None:
        self.members = members
        moments = [get_moments(member) for member in members]
        self.first = Rows([first for first, _, _ in moments])
        self.second = Rows([second for _, second, _ in moments])
        self.counters = [counter for _, _, counts in moments for counter in counts]
        self.counters += [
            batches for member in members for batches in list_batch_counts(member.model)
        ]
        self.taken = [int(counts[0]) if counts else 0 for _, _, counts in moments]
        self.averaged = [int(m.averaged.n_averaged) if m.averaged else 0 for m in members]
        constants = [get_constants(member.config) for member in members]
        self.constants = self.first.numbers.new_tensor(constants).T.unsqueeze(-1)  # (6, M, 1)
        self.n_steps = 0

    def plan_rates(self, n_steps: int) -> Tensor:
        """Compute the coefficients of every step of an epoch.

        They are computed before the epoch, so that no step waits for a number.

        Args:
            n_steps: Number of steps.

        Returns:
            r, s, q and the share that averages keep, float (n_steps, 4, M, 1).
        """
        self.n_steps = n_steps
        member_rates = [
            compute_member_rates(member, n_steps, taken, averaged)
            for member, taken, averaged in zip(self.members, self.taken, self.averaged, strict=True)
        ]
        table = torch.stack(member_rates, dim=-1).transpose(0, 1).unsqueeze(-1)
        return table.to(self.first.numbers)

    def step(self, w: Tensor, g: Tensor, rates: Tensor) -> None:
        """Update the weights in place.

        Args:
            w: Weights, float (M, n).
            g: Gradient, float (M, n).
            rates: r, s, q and the share that averages keep, float (4, M, 1).
        """
        l2, a, b, c, d, e = self.constants
        r, s, q, _ = rates
        m, v = self.first.numbers, self.second.numbers
        g = g.addcmul(w, l2)
        m.mul_(a).addcmul_(g, b)
        v.mul_(c).addcmul_(g * d, g)
        w.mul_(s).addcdiv_(m * r, v.sqrt().mul_(q).add_(e), value=-1)

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy moments and step counts back to the members."""
        self.first.write_back()
        self.second.write_back()
        if self.counters:
            torch._foreach_add_(self.counters, self.n_steps)
        for i, member in enumerate(self.members):
            self.taken[i] += self.n_steps
            if member.averaged:
                self.averaged[i] += self.n_steps
                member.averaged.n_averaged += self.n_steps


def list_batch_counts(network: nn.Module) -> list[Tensor]:
    """List the minibatch counts of the batch norms.

    Args:
        network: The network.

    Returns:
        The counts, int64 ().
    """
    return [buffer for name, buffer in network.named_buffers() if "num_batches" in name]


def get_moments(member: Training) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the state of a member's optimizer; create it before its first step.

    Args:
        member: The training.

    Returns:
        The means of the gradient, those of its square (zeros where the optimizer has none), and the
        step counts.
    """
    names = MOMENTS[member.config.optimizer]
    if not member.config.momentum and member.config.optimizer == "sgd":
        names = None, None
    moments: tuple[list[Tensor], list[Tensor]] = [], []
    counters = []
    for weight in member.model.parameters():
        state = member.optimizer.state[weight]
        for name, kept in zip(names, moments, strict=True):
            zeros = torch.zeros_like(weight)
            kept.append(state.setdefault(name, zeros) if name else zeros)
        if member.config.optimizer != "sgd":
            on_device = member.device if names[0] else None  # torch counts there
            counters.append(state.setdefault("step", torch.zeros((), device=on_device)))
    return *moments, counters


def get_constants(config: Config) -> list[float]:
    """Return the constant coefficients of `FusedOptimizer`.

    They are Python floats: 1 - β' in float32 would be wrong in the fifth digit.

    Args:
        config: The configuration of the trial.

    Returns:
        l, a, b, c, d, e.
    """
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


def compute_member_rates(member: Training, n_steps: int, taken: int, averaged: int) -> Tensor:
    """Compute the coefficients of one member for every step of an epoch.

    Args:
        member: The training.
        n_steps: Number of steps of the epoch.
        taken: Number of steps that the optimizer took before.
        averaged: Number of steps that the moving average took before.

    Returns:
        r, s, q of `FusedOptimizer` and the share that the average keeps, float64 (4, n_steps).
    """
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
