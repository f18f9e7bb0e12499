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
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from raycae.model.architecture import fusion_key
from raycae.model.autoencoder import Autoencoder, ConvBlock
from raycae.training import metrics
from raycae.training.device import run_forward, set_rounding
from raycae.training.fused_optimizer import FusedOptimizer, Rows
from raycae.training.trainer import Diverged, Training, draw_minibatches
from raycae.training.validation import VALIDATION_BATCH, Reference

WARM_STEPS = 3
"""Steps before one is captured: torch's libraries choose their kernels and get their memory."""


class FusedTrainings:
    """Trainings under way, M of them, that run their epochs together.

    `members` have configurations of one `fusion_key`, the same images, order seed and
    `first_images`, and have trained equally many epochs; else `ValueError`. Their `micro_batch` has
    no say. Who is to leave is left out of the next cohort; who stands at the same epoch may be in
    it, whether it trained alone or in another one. A member that is given another state needs a new
    cohort, too. What a member learns is what it would learn alone, up to the rounding of sums in
    another order, of which `bf16` has more; its neighbours have no part in it.
    """

    def __init__(self, members: Sequence[Training]) -> None:
        if len({get_common(member) for member in members}) > 1:
            raise ValueError("members of a cohort differ in more than their weights and training")
        self.members = list(members)
        self.network = replicate_network(members[0].model, len(members))
        self.wide = view_by_member(self.network, len(members))
        self.parameters = list(self.network.parameters())
        self.values = Rows([list_values(member.model) for member in members])
        self.averages: Rows | None = None
        if any(member.averaged for member in members):
            self.averages = Rows([list_values(member.measured) for member in members])
        self.rule = FusedOptimizer(members)
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
        batches = draw_minibatches(
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
        with set_rounding(first.config):
            for rows, rates in zip(batches, self.rule.rates(n_batches), strict=True):
                step(rows, rates)
        return (self.losses / first.n_images).tolist()

    def _step(self, rows: Tensor, rates: Tensor) -> None:
        """One minibatch: `rows` of the images, `rates` (4, M, 1) for it."""
        first, m = self.members[0], len(self.members)
        x, y = first.task.batch(*first.train[rows])
        output = run_forward(self.network, x, first.config)
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
        """The task's MSE and the PSNR (dB) of each member, as `validation.compute_errors` has
        them."""
        first, m = self.members[0], len(self.members)
        network = self.network
        if self.averages:
            network = copy.deepcopy(network)
            self.averages.copy_to(view_by_member(network, m))
        network.eval()
        mse = torch.zeros(m, device=first.device, dtype=torch.float64)
        psnr_db = torch.zeros_like(mse)
        # As many as a minibatch holds always go: training had their gradients in memory, too.
        at_once = max(VALIDATION_BATCH // m, first.config.batch_size)
        for batch, rgb in Reference(first.val, at_once):
            x, y = first.task.batch(*batch)
            output = network(x)
            mse += compute_member_errors(output, y, m).sum(0)
            each = output.unflatten(1, (m, -1)).flatten(0, 1)  # (N M, C, H, W)
            images, truth = (t.repeat_interleave(m, dim=0) for t in (batch[0], rgb))
            psnr_db += (
                metrics.compute_psnr_db(first.task.picture(images, each), truth).view(-1, m).sum(0)
            )
        n = len(first.val)
        return (mse / n).tolist(), (psnr_db / n).tolist()

    def _write(self) -> None:
        """All that was learnt back to the members."""
        self.values.write()
        if self.averages:
            self.averages.write()
        self.rule.write()


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


def replicate_network(network: Autoencoder, m: int) -> Autoencoder:
    """`network` M times side by side: x (N, C, H, W), which all share, to x_hat (N, M C', H, W).

    Its parameters and statistics have the names of the network's, and those of all members one
    behind the other in their first dimension.
    """
    wide = copy.deepcopy(network)
    first = cast(ConvBlock, wide.encoder[0])
    shared: list[nn.Module] = [first.conv]
    if first.residual:  # x itself is added to what each member makes of it
        shared = []
        first.register_forward_pre_hook(lambda _, inputs: repeat_members(inputs[0], m))
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


def repeat_members(x: Tensor, m: int) -> Tensor:
    return x.repeat(1, m, 1, 1).contiguous(memory_format=torch.channels_last)


def list_values(network: nn.Module) -> list[Tensor]:
    """Weights, and behind them batch norm's running statistics."""
    statistics = [buffer for name, buffer in network.named_buffers() if "running" in name]
    return [*network.parameters(), *statistics]


def view_by_member(wide: Autoencoder, m: int) -> list[Tensor]:
    """The memory of `list_values` of a wide network, each as (M, …)."""
    return [t.detach().unflatten(0, (m, -1)) for t in list_values(wide)]


def compute_member_errors(output: Tensor, y: Tensor, m: int) -> Tensor:
    """MSE (N, M) of `output` (N, M C, H, W) from `y` (N, C, H, W)."""
    return (output.unflatten(1, (m, -1)) - y.unsqueeze(1)).square().mean(dim=(2, 3, 4))


def get_common(member: Training) -> Hashable:
    images = id(member.train), id(member.val), member.first_images, member.order_seed
    return fusion_key(member.config), images, member.epoch
