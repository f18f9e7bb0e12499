"""`raycae trial`: train one configuration in this process, without Ray."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from raycae.cli.options import LimitOption, SpaceOption
from raycae.errors import InputError
from raycae.execution.search_options import MAX_SEED, OPTIONS
from raycae.formatting import join_words

if TYPE_CHECKING:
    import torch

    from raycae.config import Config
    from raycae.data import Images
    from raycae.space.space import Space


def run_trial(
    space_name: SpaceOption = "ex3",
    point: Annotated[
        str | None,
        typer.Option(help="Name of a predefined configuration in the space file (key `points`)."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    data_source: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="SOURCE", help=OPTIONS["data"].help, show_default="the space's"
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Number of epochs.", show_default="the space's")
    ] = None,
    limit: LimitOption = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, metavar="S", help="Random seed.")] = 0,
) -> None:
    """Run one trial in this process, without Ray, for debugging.

    Exceptions keep their traceback. The test error is measured once, after the last epoch.

    Example: raycae trial --space ex1 --set lr=0.01 --epochs 3
    """
    from raycae.space import loading

    space = loading.load_space(space_name)
    config = resolve_trial_config(space, point, settings or [])
    if reason := space.check(config):
        raise InputError(f"this configuration cannot be tried: {reason}")

    from raycae import data
    from raycae.training.device import choose_device, put_on_device
    from raycae.training.trainer import Diverged, Training
    from raycae.training.validation import compute_errors

    if data_source:
        data.require_unambiguous(data_source)
    source = data_source or space.source
    limit = limit or space.budget.limit
    images = data.load(
        source, image_size=config.image_size, limit=limit, seed=seed, classes=config.classes
    )
    device = choose_device()
    print_setup(config, device, images)
    epochs = epochs or space.budget.epochs
    training = Training(
        config,
        put_on_device(images.train, device, images.labels.train),
        put_on_device(images.val, device, images.labels.val),
        epochs=epochs,
        seed=seed,
        order_seed=seed,
    )
    for _ in range(epochs):
        try:
            measured = training.run_epoch()
        except Diverged as fault:
            print(f"raycae: diverged: {fault}", file=sys.stderr)
            raise typer.Exit(1) from None
        print(
            f"epoch {measured['epoch']:3}  train_mse {measured['train_mse']:.5f}  "
            f"val_mse {measured['val_mse']:.5f}  mean PSNR {measured['val_psnr_db']:.2f} dB  "
            f"{measured['epoch_time_s']:.1f} s  {measured['images_per_s']:,.0f} images/s",
            flush=True,
        )
    network = training.evaluation_model
    network.load_state_dict(training.best_weights)
    test = put_on_device(images.test, device, images.labels.test)
    test_mse, test_psnr_db = compute_errors(network.eval(), training.task, test)
    print(
        f"best epoch {training.best_epoch}: val_mse {training.best_val_mse:.5f}, "
        f"test_mse {test_mse:.5f} (mean PSNR {test_psnr_db:.2f} dB, {len(test):,} images)"
    )


def print_setup(config: Config, device: torch.device, images: Images) -> None:
    """Print the network, its training and the images.

    Args:
        config: The configuration of the trial.
        device: Where it is trained.
        images: What it is trained on.
    """
    from raycae.model.architecture import build_architecture

    architecture = build_architecture(config)
    print(f"task      {config.task}")
    print(f"network   {architecture}, {config.activation}, {config.output}")
    print(
        f"latent    {architecture.latent_size}, {architecture.n_params:,} parameters, "
        f"{architecture.flops:,} FLOPs"
    )
    print(f"training  {config.optimizer}, lr {config.lr:g}, batch {config.batch_size}, {device}")
    print(
        f"          schedule {config.schedule}, averaging {config.averaging:g}, "
        f"linear path {config.linear_path}, flips {config.flips}, {config.precision}"
    )
    print(f"images    {len(images.train):,} train, {len(images.val):,} validation")
    print(f"data      {images.summary}")
    for note in images.notes:
        print(f"note      {note}")


def resolve_trial_config(space: Space, point: str | None, settings: list[str]) -> Config:
    """Make the configuration of a trial.

    Args:
        space: The space, whose fixed settings count first.
        point: A named point of the space, whose settings count next.
        settings: The options `--set`, each `NAME=VALUE`, which count last.

    Raises:
        InputError: There is no such point, or a setting is not allowed.
    """
    from raycae.config import list_given, parse_setting, resolve

    if point is not None and point not in space.points:
        remedy = f"Use {join_words([*space.points], 'or')}." if space.points else "It has none."
        raise InputError(f"--point {point}: the space {space.name} has no such point. {remedy}")
    written = list_given(space.file.points[point]) if point else {}
    changes = dict(map(parse_setting, settings))
    try:
        return resolve({**space.fixed, **written, **changes})
    except InputError as error:
        raise InputError(f"--set {error}" if changes else str(error)) from None
