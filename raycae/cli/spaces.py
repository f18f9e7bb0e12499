"""`raycae spaces` and `raycae preview`: look at search spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raycae.cli.options import JsonOption, SpaceOption
from raycae.cli.terminal import print_table
from raycae.execution.search_options import MAX_SEED
from raycae.formatting import make_printable

if TYPE_CHECKING:
    from raycae.config import Config
    from raycae.optimization.proposer import Proposer
    from raycae.space.space import Space


def list_spaces() -> None:
    """List the shipped search spaces and the questions they answer.

    Example: raycae spaces
    """
    from rich.table import Table

    from raycae.space import loading

    table = Table("space", "question", "trials x epochs", "data", box=None, pad_edge=False)
    for name in loading.list_space_names():
        space = loading.load_space(name)
        budget = f"{space.budget.trials} x {space.budget.epochs}"
        table.add_row(name, space.question, budget, space.file.data)
    print_table(table)


def preview_space(
    space_name: SpaceOption = "ex3",
    number: Annotated[
        int, typer.Option("-n", min=1, help="Number of configurations to print.")
    ] = 20,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="How configurations are proposed, as in search.", show_default="the space's"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, metavar="S", help="Random seed.")] = 0,
    fuse: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=9999,
            metavar="M",
            help="For each network, measure on this machine how many trials to train together, "
            "up to M.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the first configurations of a search; nothing is trained.

    Example: raycae preview --space ex2 -n 20
    """
    from rich.table import Table

    from raycae.cli.studies import print_json
    from raycae.model.architecture import build_architecture
    from raycae.optimization.samplers import choose_sampler, get_cost
    from raycae.space import loading

    space = loading.load_space(space_name)
    sampler = sampler or choose_sampler(space, get_cost(space, {}))
    proposer = make_proposer(space, sampler, seed)
    columns = ["", "latent", "params", "MFLOPs", "network", "training", *(["fused"] * bool(fuse))]
    table = Table(*columns, box=None, pad_edge=False)
    rows: list[dict[str, Any]] = []
    for trial_number in range(number):
        proposal = proposer.propose(trial_number)
        if proposal is None:
            break
        if sampler == "greedy":  # It goes on as if every change were rejected.
            proposer.tell(trial_number, "COMPLETE", 1.0)
        config = proposal.config
        architecture = build_architecture(config)
        channels, height, width = architecture.latent_shape
        fused = {"fused": estimate_fusion(config, fuse)} if fuse else {}
        rows.append(
            {
                "trial_number": trial_number,
                "point": proposal.point,
                "change": proposal.change,
                "latent_size": architecture.latent_size,
                "latent_shape": [channels, height, width],
                "n_params": architecture.n_params,
                "flops": architecture.flops,
                "network": str(architecture),
                **fused,
                "config": config.model_dump(mode="json"),
            }
        )
        table.add_row(
            make_printable(proposal.point or proposal.change or str(trial_number)),
            f"{architecture.latent_size} ({channels}x{height}x{width})",
            f"{architecture.n_params:,}",
            f"{architecture.flops / 1e6:.2f}",
            f"{architecture}, {config.activation}",
            f"{config.optimizer} {config.lr:.1e}, batch {config.batch_size}",
            *fused.values(),
        )
    if as_json:
        print_json(rows)
    else:
        print_table(table)


def make_proposer(space: Space, sampler: str, seed: int) -> Proposer:
    """Make the proposer of a search in which no trial has ended.

    Args:
        space: The search space.
        sampler: Name of the sampler.
        seed: Random seed.
    """
    from raycae.optimization.feasibility import choose_strata
    from raycae.optimization.frontier import Strata
    from raycae.optimization.proposer import Proposer

    strata = None
    if sampler == "strata":
        bounds = choose_strata(space, None)
        # The errors of PCA do not count before a trial has ended.
        strata = Strata(bounds, [1.0] * len(bounds))
    return Proposer(space, sampler, seed, strata=strata)


def estimate_fusion(config: Config, most: int) -> str:
    """Measure on random pixels whether fused training of a network is faster on this machine.

    Args:
        config: The configuration of the network.
        most: The largest number of trials to train together.

    Returns:
        The number to train together, and the measured speed-up, in words.
    """
    import numpy as np
    import torch

    from raycae.training.device import configure_torch, put_on_device
    from raycae.training.fusion_size import choose_fusion_size, get_available_bytes

    configure_torch(threads=1)  # A trial has as many.
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    n, size = 4 * config.batch_size, config.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)
    labels = np.zeros(n, np.int64) if config.classes else None
    return choose_fusion_size(
        config, most, put_on_device(pixels, device, labels), get_available_bytes(device)
    ).why
