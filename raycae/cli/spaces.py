"""`raycae spaces` and `raycae preview`: look at search spaces."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from raycae.cli.options import SpaceOption
from raycae.config import Config
from raycae.execution.search_options import MAX_SEED
from raycae.formatting import make_printable
from raycae.space import loading


def list_spaces() -> None:
    """List the shipped search spaces with the question each one asks.

    Example: raycae spaces
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("space", "question", "trials x epochs", "data", box=None, pad_edge=False)
    for name in loading.list_space_names():
        the_space = loading.load_space(name)
        budget = the_space.budget
        table.add_row(
            name, the_space.question, f"{budget.trials} x {budget.epochs}", the_space.file.data
        )
    Console().print(table)


def preview_space(
    space_name: SpaceOption = "ex3",
    number: Annotated[int, typer.Option("-n", min=1, help="How many configurations.")] = 20,
    sampler: Annotated[
        str | None, typer.Option(help="tpe, random, grid, greedy.", show_default="the space's")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, metavar="S")] = 0,
    fuse: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=9999,
            metavar="M",
            help="Measure on this machine whether up to M trainings of each network pay as one.",
        ),
    ] = None,
) -> None:
    """Print configurations that a search would begin with; nothing is trained.

    Example: raycae preview --space ex2 -n 20
    """
    from rich.console import Console
    from rich.table import Table

    from raycae.model.architecture import build_architecture
    from raycae.optimization.proposer import Proposer
    from raycae.optimization.samplers import choose_sampler

    the_space = loading.load_space(space_name)
    sampler = sampler or choose_sampler(the_space)
    proposer = Proposer(the_space, sampler, seed)
    columns = ["", "latent", "params", "MFLOPs", "network", "training", *(["as one"] * bool(fuse))]
    table = Table(*columns, box=None, pad_edge=False)
    for trial_number in range(number):
        proposal = proposer.propose(trial_number)
        if proposal is None:
            break
        if sampler == "greedy":  # as if no change were kept
            proposer.tell(trial_number, "COMPLETE", 1.0)
        net, config = build_architecture(proposal.config), proposal.config
        channels, height, width = net.latent_shape
        table.add_row(
            make_printable(proposal.point or proposal.change or str(trial_number)),
            f"{net.latent_size} ({channels}x{height}x{width})",
            f"{net.n_params:,}",
            f"{net.flops / 1e6:.2f}",
            f"{net}, {config.activation}",
            f"{config.optimizer} {config.lr:.1e}, batch {config.batch_size}",
            *([estimate_fusion(config, fuse)] if fuse else []),
        )
    Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False).print(table)


def estimate_fusion(config: Config, most: int) -> str:
    """Whether up to `most` trainings of a network pay as one here, measured on any pixels."""
    import numpy as np
    import torch

    from raycae.training.device import configure_torch, put_on_device
    from raycae.training.fusion_size import choose_fusion_size, get_available_bytes

    configure_torch(threads=1)  # as a trial has it
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    n, size = 4 * config.batch_size, config.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)
    labels = np.zeros(n, np.int64) if config.classes else None
    return choose_fusion_size(
        config, most, put_on_device(pixels, device, labels), get_available_bytes(device)
    ).why
