"""Train many trials of one architecture together, on one stream of minibatches.

Trials that differ in how they are trained (optimizer, learning rate, weight decay, momentum,
schedule, averaging, planned epochs, first weights) share every shape. Where seed, batch size and
flips agree, they share every minibatch, too. So M of them are one network M times as wide, whose
convolutions have M groups. A minibatch is gathered and transformed once, and a step launches as
many kernels as that of a single trial.

The order of minibatches depends on the epoch, so all members are at the same epoch. Between two
epochs each of them is an ordinary `Training`.
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
from raycae.training.minibatches import draw_minibatches, load_minibatch
from raycae.training.trainer import Diverged, Training
from raycae.training.validation import VALIDATION_BATCH, scale_to_rgb

WARM_STEPS = 3
"""Number of steps before a step is captured.

In them torch's libraries choose their kernels and allocate memory.
"""


class FusedTrainings:
    """M trainings that run their epochs together.

    Each member learns what it would learn alone, up to the rounding of sums in another order (more
    with `bf16`); the other members do not affect it. To remove or add a member, make a new object
    with other members of the same epoch. The same holds after a member's state was replaced.

    Args:
        members: Trainings with configurations of one `fusion_key`, the same images, order seed,
            `first_images` and epoch. Their `micro_batch` is ignored.

    Raises:
        ValueError: The members do not agree in these.
    """

    def __init__(self, members: Sequence[Training]) -> None:
        if len({get_fusion_group(member) for member in members}) > 1:
            raise ValueError("fused trials differ in more than weights and training settings")
        self.members = list(members)
        self.network = replicate_network(members[0].model, len(members))
        self.wide = view_by_member(self.network, len(members))
        self.parameters = list(self.network.parameters())
        self.values = Rows([list_values(member.model) for member in members])
        self.averages: Rows | None = None
        self.evaluated = self.network
        if any(member.averaged for member in members):
            self.averages = Rows([list_values(member.evaluation_model) for member in members])
            self.evaluated = copy.deepcopy(self.network)
        self.optimizer = FusedOptimizer(members)
        self.losses = torch.zeros(len(members), dtype=torch.float64, device=members[0].device)
        self.errors = self.losses.new_zeros(2, len(members))  # sums of MSE and of PSNR
        # A batch of the training size always fits, because training also stored gradients.
        batch_size = members[0].config.batch_size
        self.validation_batch = max(VALIDATION_BATCH // len(members), batch_size)
        self.replay: Replay | None = None
        self.validation_replay: Replay | None = None
        if members[0].device.type == "cuda":
            self.replay = Replay(batch_size)
            self.validation_replay = Replay(self.validation_batch)
        self.values.copy_to(self.wide)

    def run_epoch(self) -> list[dict[str, Any] | Diverged]:
        """Train all members for one epoch, then validate them.

        Returns:
            For each member what `Training.run_epoch` returns, or the `Diverged` that it would
            raise; such a member must not be part of the next epoch. Times are shares:
            `epoch_time_s` is the time of all members divided by M.
        """
        start_time = time.perf_counter()
        for member in self.members:
            member.epoch += 1
        train_mse = self._train()
        train_end = time.perf_counter()
        self._write_back()
        errors = zip(train_mse, *self._validate(), strict=True)
        results: list[dict[str, Any] | Diverged] = []
        for member, (train, val, psnr_db) in zip(self.members, errors, strict=True):
            try:
                results.append(member.finish_epoch(train, val, psnr_db))
            except Diverged as fault:
                results.append(fault)
        m, n_images = len(self.members), self.members[0].n_images
        times = {
            "epoch_time_s": (time.perf_counter() - start_time) / m,
            "images_per_s": n_images / (train_end - start_time),
        }
        return [result if isinstance(result, Diverged) else result | times for result in results]

    def _train(self) -> list[float]:
        """Train for one epoch; return the mean training error of each member."""
        first = self.members[0]
        batches = draw_minibatches(
            first.n_images,
            first.config.batch_size,
            seed=first.order_seed,
            epoch=first.epoch,
            device=first.device,
            flips=first.config.flips,
        )
        self.network.train()
        self.losses.zero_()
        n_batches = -(-first.n_images // first.config.batch_size)
        with set_rounding(first.config):
            for rows, rates in zip(batches, self.optimizer.plan_rates(n_batches), strict=True):
                if self.replay is None:
                    self._step(rows, rates)
                else:
                    self.replay(self._step, rows, rates)
        return (self.losses / first.n_images).tolist()

    def _step(self, rows: Tensor, rates: Tensor) -> None:
        """Train on one minibatch.

        Args:
            rows: What to load, int64 (N,); see `load_minibatch`.
            rates: Coefficients of the step, (4, M, 1); see `FusedOptimizer.plan_rates`.
        """
        first, m = self.members[0], len(self.members)
        x, y = first.task.batch(*load_minibatch(first.train, rows, first.config.flips))
        output = run_forward(self.network, x, first.config)
        with torch.no_grad():
            difference = output.unflatten(1, (m, -1)) - y.unsqueeze(1)  # (N, M, C, H, W)
            losses = difference.square().mean(dim=(0, 2, 3, 4))
            # Their gradient by hand: autograd would pass over the images three more times.
            output_gradient = difference.mul_(2 / y.numel()).flatten(1, 2)
        # With `output_gradient` as an argument, `torch.autograd.grad` would import SymPy: 488
        # modules, 0.6 s of CPU in every worker.
        loss = _GivenGradient.apply(output, output_gradient)
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            gradient = torch.cat([g.reshape(m, -1) for g in gradients], dim=1)
            # Batch norm has changed its running statistics.
            self.values.copy_from(self.wide, start=len(self.parameters))
            self.optimizer.step(self.values.numbers[:, : gradient.shape[1]], gradient, rates)
            self.values.copy_to(self.wide[: len(self.parameters)])
            if self.averages:
                self.averages.numbers.lerp_(self.values.numbers, 1 - rates[3])
            self.losses += losses * len(rows)  # on the device, so that the step does not wait

    @torch.inference_mode()
    def _validate(self) -> tuple[list[float], list[float]]:
        """Compute MSE and PSNR (dB) per member, like `validation.compute_errors`."""
        val = self.members[0].val
        if self.averages:
            self.averages.copy_to(view_by_member(self.evaluated, len(self.members)))
        self.evaluated.eval()
        self.errors.zero_()
        for start in range(0, len(val), self.validation_batch):
            batch = val[start : start + self.validation_batch]
            if self.validation_replay is None:
                self._add_errors(*batch)
            else:
                self.validation_replay(self._add_errors, *batch)
        mse, psnr_db = (self.errors / len(val)).tolist()
        return mse, psnr_db

    def _add_errors(self, *batch: Tensor) -> None:
        """Add MSE and PSNR (dB) per member on a batch of validation images to `errors`.

        Args:
            batch: The images, uint8 (N, H, W, 3), and their labels, if there are any.
        """
        first, m = self.members[0], len(self.members)
        x, y = first.task.batch(*batch)
        output = self.evaluated(x)
        self.errors[0] += compute_member_errors(output, y, m).sum(0)
        member_outputs = output.unflatten(1, (m, -1)).flatten(0, 1)  # (N M, C, H, W)
        rgb = scale_to_rgb(batch[0])
        images, truth = (t.repeat_interleave(m, dim=0) for t in (batch[0], rgb))
        pictures = first.task.picture(images, member_outputs)
        self.errors[1] += metrics.compute_psnr_db(pictures, truth).view(-1, m).sum(0)

    def _write_back(self) -> None:
        """Copy everything learned back to the members."""
        self.values.write_back()
        if self.averages:
            self.averages.write_back()
        self.optimizer.write_back()


class _GivenGradient(torch.autograd.Function):
    """A number whose gradient by the output of a network is given."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, gradient: Tensor) -> Tensor:
        """Keep the gradient.

        Args:
            ctx: What `backward` gets.
            output: Output of the network.
            gradient: The gradient, in the shape of the output.

        Returns:
            Zero, float ().
        """
        ctx.save_for_backward(gradient)
        return output.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
        """Return the gradient by each argument of `forward`."""
        return ctx.saved_tensors[0], None


class Replay:
    """A step captured as a CUDA graph: one launch instead of hundreds.

    The first steps run normally on a separate stream, as the warm-up of the capture. It was
    written without a GPU and has never run.

    Args:
        n: Number of rows of the first input. Steps with fewer rows are not captured.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.stream = torch.cuda.Stream()
        self.warm = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Callable[..., None], *inputs: Tensor) -> None:
        """Run a step.

        Args:
            step: The step; the same one at every call.
            inputs: Its arguments, of the same shapes at every call with `n` rows.
        """
        if len(inputs[0]) < self.n:
            step(*inputs)
            return
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
    """M linear maps side by side.

    Args:
        linear: The map that is replicated.
        m: Number of copies.
    """

    def __init__(self, linear: nn.Linear, m: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.repeat(m, 1))
        self.bias = nn.Parameter(linear.bias.repeat(m))
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        """Apply each map to its part of the input.

        Args:
            x: Input, float (…, M in).

        Returns:
            Output, float (…, M out).
        """
        member_inputs = x.unflatten(-1, (self.m, -1))  # (…, M, in)
        weight = self.weight.unflatten(0, (self.m, -1))  # (M, out, in)
        return torch.einsum("...mi,moi->...mo", member_inputs, weight).flatten(-2) + self.bias


def replicate_network(network: Autoencoder, m: int) -> Autoencoder:
    """Make a network of M copies side by side.

    Its parameters and statistics have the names of the original's. Their first dimension holds
    those of all members, one after another.

    Args:
        network: The network.
        m: Number of copies.

    Returns:
        The wide network: x (N, C, H, W), shared by all members, to x_hat (N, M C', H, W).
    """
    wide = copy.deepcopy(network)
    first = cast(ConvBlock, wide.encoder[0])
    shared: list[nn.Module] = [first.conv]
    if first.residual:  # x itself is added to the output of each member
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
    """Repeat the channels of feature maps for each member.

    Args:
        x: Feature maps, float (N, C, H, W).
        m: Number of members.

    Returns:
        Feature maps, float (N, M C, H, W).
    """
    return x.repeat(1, m, 1, 1).contiguous(memory_format=torch.channels_last)


def list_values(network: nn.Module) -> list[Tensor]:
    """List the weights of a network, followed by the running statistics of its batch norms.

    Args:
        network: The network.

    Returns:
        The tensors.
    """
    statistics = [buffer for name, buffer in network.named_buffers() if "running" in name]
    return [*network.parameters(), *statistics]


def view_by_member(wide: Autoencoder, m: int) -> list[Tensor]:
    """View the tensors of `list_values` of a wide network per member.

    Args:
        wide: The wide network.
        m: Number of members.

    Returns:
        Views of the same memory, each (M, …).
    """
    return [t.detach().unflatten(0, (m, -1)) for t in list_values(wide)]


def compute_member_errors(output: Tensor, y: Tensor, m: int) -> Tensor:
    """Compute the error of each member on each image.

    Args:
        output: Output of the wide network, float (N, M C, H, W).
        y: Target, float (N, C, H, W).
        m: Number of members.

    Returns:
        The mean squared errors, float (N, M).
    """
    return (output.unflatten(1, (m, -1)) - y.unsqueeze(1)).square().mean(dim=(2, 3, 4))


def get_fusion_group(member: Training) -> Hashable:
    """Return a key that is equal for trainings that can be fused.

    Args:
        member: The training.

    Returns:
        The key.
    """
    images = id(member.train), id(member.val), member.first_images, member.order_seed
    return fusion_key(member.config), images, member.epoch
