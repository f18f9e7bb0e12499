"""The command line: every command a thin skin. Torch and Ray are imported once a command needs
them, so that `raycae --help` answers at once."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from raycae import __version__, results, space
from raycae.config import Config, given, parse_setting, resolve
from raycae.dashboard import dashboard
from raycae.errors import InputError, printable, told_on_stderr
from raycae.export import export
from raycae.jobs import fetch, jobs, logs, status, stop, submit
from raycae.predict import predict
from raycae.reproduce import reproduce
from raycae.search import MAX_SEED, search
from raycae.simulate import simulate
from raycae.storage import Place, place
from raycae.terminal import configure_output, require_current_folder

app = typer.Typer(
    name="raycae",
    help="Search for convolutional autoencoders: how much error does a given latent size cost?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SpaceOption = Annotated[
    str, typer.Option("--space", metavar="NAME|FILE", help="A shipped space or a file.")
]
ResultsOption = Annotated[
    str,
    typer.Option(
        "--results", metavar="FOLDER|URI", envvar="RAYCAE_RESULTS", help="Where studies lie."
    ),
]
StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's name, or its folder or URI.")
]

app.command("search")(search)
app.command("reproduce")(reproduce)
app.command("simulate")(simulate)
app.command("predict")(predict)
app.command("export")(export)
app.command("dashboard")(dashboard)
app.command("submit", context_settings={"ignore_unknown_options": True})(submit)
app.command("jobs")(jobs)
app.command("status")(status)
app.command("logs")(logs)
app.command("stop")(stop)
app.command("fetch")(fetch)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"raycae {__version__}")
        raise typer.Exit()


@app.callback()
def _raycae(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def spaces() -> None:
    """List the shipped search spaces with the question each one asks.

    Example: raycae spaces
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("space", "question", "trials x epochs", "data", box=None, pad_edge=False)
    for name in space.names():
        the_space = space.load(name)
        budget = the_space.budget
        table.add_row(
            name, the_space.question, f"{budget.trials} x {budget.epochs}", the_space.file.data
        )
    Console().print(table)


@app.command()
def preview(
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

    from raycae.architecture import architecture
    from raycae.searcher import Proposer, usual_sampler

    the_space = space.load(space_name)
    sampler = sampler or usual_sampler(the_space)
    proposer = Proposer(the_space, sampler, seed)
    columns = ["", "latent", "params", "MFLOPs", "network", "training", *(["as one"] * bool(fuse))]
    table = Table(*columns, box=None, pad_edge=False)
    for trial_number in range(number):
        proposal = proposer.propose(trial_number)
        if proposal is None:
            break
        if sampler == "greedy":  # as if no change were kept
            proposer.tell(trial_number, "COMPLETE", 1.0)
        net, config = architecture(proposal.config), proposal.config
        channels, height, width = net.latent_shape
        table.add_row(
            printable(proposal.point or proposal.change or str(trial_number)),
            f"{net.latent_size} ({channels}x{height}x{width})",
            f"{net.n_params:,}",
            f"{net.flops / 1e6:.2f}",
            f"{net}, {config.activation}",
            f"{config.optimizer} {config.lr:.1e}, batch {config.batch_size}",
            *([_as_one(config, fuse)] if fuse else []),
        )
    Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False).print(table)


def _as_one(config: Config, most: int) -> str:
    """Whether up to `most` trainings of a network pay as one here, measured on any pixels."""
    import numpy as np
    import torch

    from raycae.cohort import fusing, room_bytes
    from raycae.training import on_device, prepare

    prepare(threads=1)  # as a trial has it
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    n, size = 4 * config.batch_size, config.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)
    labels = np.zeros(n, np.int64) if config.classes else None
    return fusing(config, most, on_device(pixels, device, labels), room_bytes(device)).why


@app.command()
def trial(
    space_name: SpaceOption = "ex3",
    point: Annotated[str | None, typer.Option(help="A named point of the space.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    data_source: Annotated[
        str | None, typer.Option("--data", metavar="SOURCE", show_default="the space's")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, show_default="the space's")] = None,
    limit: Annotated[int | None, typer.Option(min=16, metavar="IMAGES", show_default="all")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, metavar="S")] = 0,
) -> None:
    """Run one trial in this process, without Ray: the door for debugging.

    Faults keep their traceback. The test error is measured once, after the last epoch.

    Example: raycae trial --space ex1 --set lr=0.01 --epochs 3
    """
    the_space = space.load(space_name)
    config = _trial_config(the_space, point, settings or [])
    if reason := the_space.check(config):
        raise InputError(f"this configuration cannot be tried: {reason}")

    from raycae import data, evaluation
    from raycae.architecture import architecture
    from raycae.training import Diverged, Training, errors, on_device

    if data_source:
        data.require_unambiguous(data_source)
    source = data_source or the_space.source
    limit = limit or the_space.budget.limit
    images = data.load(
        source, image_size=config.image_size, limit=limit, seed=seed, classes=config.classes
    )
    device = evaluation.best_device()
    net = architecture(config)
    print(f"network   {net}, {config.activation}, {config.output}")
    print(f"latent    {net.latent_size}, {net.n_params:,} parameters, {net.flops:,} FLOPs")
    print(f"training  {config.optimizer}, lr {config.lr:g}, batch {config.batch_size}, {device}")
    print(
        f"          schedule {config.schedule}, averaging {config.averaging:g}, "
        f"linear path {config.linear_path}, {config.precision}"
    )
    print(f"images    {len(images.train):,} train, {len(images.val):,} validation")
    print(f"data      {images.summary}")
    epochs = epochs or the_space.budget.epochs
    training = Training(
        config,
        on_device(images.train, device, images.labels.train),
        on_device(images.val, device, images.labels.val),
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
            f"val_mse {measured['val_mse']:.5f}  {measured['val_psnr_db']:.2f} dB  "
            f"{measured['epoch_time_s']:.1f} s  {measured['images_per_s']:,.0f} images/s",
            flush=True,
        )
    network = training.measured
    network.load_state_dict(training.best_weights)
    test = on_device(images.test, device, images.labels.test)
    test_mse, test_psnr_db = errors(network.eval(), training.task, test)
    print(
        f"best epoch {training.best_epoch}: val_mse {training.best_val_mse:.5f}, "
        f"test_mse {test_mse:.5f} ({test_psnr_db:.2f} dB, {len(test):,} images)"
    )


@app.command()
def show(
    study: StudyArgument = "ex3",
    results_folder: ResultsOption = "results",
    number: Annotated[int, typer.Option("-n", min=1, help="How many trials.")] = 20,
) -> None:
    """Print the leaderboard of a study, also while it runs.

    Example: raycae show ex3 -n 10
    """
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from raycae.architecture import architecture
    from raycae.progress import summary

    folder = results.find_study(study, results_folder)
    trials = results.read_trials(folder)
    distinct = trials["arch_hash"].nunique()
    print(
        f"{printable(folder.name)}: {summary(Counter(trials['state']))}, "
        f"{distinct} distinct architecture{'s' * (distinct != 1)}; * on the frontier"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("", "trial", "val_mse", "dB", "test_mse", "latent", "params", "epochs", "network"):
        table.add_column(name, justify="left" if name in ("", "network") else "right")
    ranked = trials[trials["val_mse"].notna() & (trials["state"] != "FAIL")]
    ranked = ranked.sort_values(["val_mse", "trial_number"])
    plan = results.asked(results.read_study(folder))
    if plan["objective"] == "frontier":  # that first, as it runs
        on = ranked["on_frontier"].fillna(False).astype(bool)
        ranked = pd.concat([ranked[on].sort_values(plan["cost"], kind="stable"), ranked[~on]])
    for row in ranked.head(number).to_dict("records"):
        config = Config.model_validate_json(row["config"])
        table.add_row(
            row["state"] + (" *" if row["on_frontier"] is True else ""),
            str(row["trial_number"]),
            f"{row['val_mse']:.5f}",
            f"{row['val_psnr_db']:.2f}",
            _or_dash(row["test_mse"], "{:.5f}"),
            str(row["latent_size"]),
            f"{row['n_params']:,}",
            str(row["epochs_run"]),
            printable(f"{_or_dash(row['point'], '[{}] ')}{architecture(config)}".removeprefix("-")),
        )
    Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False).print(table)


@app.command()
def evaluate(study: StudyArgument = "ex3", results_folder: ResultsOption = "results") -> None:
    """Evaluate the kept models that have no test error yet on the test images.

    Example: raycae evaluate ex3
    """
    folder = results.find_study(study, results_folder)
    from raycae import evaluation, report
    from raycae.progress import described

    with _reopened(folder) as opened:
        number = evaluation.evaluate(opened)
        print(f"{number} models evaluated on the test images")
        for kept in opened.kept():
            print(f"  {described(opened.records.trials[kept])}")
        for note in opened.notes:
            print(f"note: {note}")
        notes = list(opened.notes)
    report.write(folder, notes=notes)


@app.command("report")
def report_command(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="STUDY...", help="Names, folders or URIs.", show_default="ex3"),
    ] = None,
    results_folder: ResultsOption = "results",
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            metavar="FILE",
            help="Where to write the page.",
            show_default="report.html in the study, or comparison.html where studies lie",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the figures as images as well; one study."),
    ] = None,
) -> None:
    """Write the report of a study, or one that compares several: an HTML page that works offline.

    Lines and pictures that an interrupted search left out are made now.

    Example: raycae report ex3
    """
    names = studies or ["ex3"]
    if png is not None and len(names) > 1:
        raise InputError("--png: writes the figures of one study, not of a comparison")
    folders = [results.find_study(name, results_folder) for name in names]
    path = None if output is None else place(output)
    from raycae import comparison, report
    from raycae.reader import StudyReader

    finishes = [StudyReader(folder).illustrate() for folder in folders]
    if len(folders) > 1:
        default = place(results_folder) / "comparison.html"
        print(printable(str(comparison.write(folders, path or default))))
    else:
        print(printable(str(report.write(folders[0], path, finishes[0].notes))))
        for image in report.write_images(folders[0], png) if png is not None else ():
            print(printable(str(image)))
    for finish in finishes:
        finish.raise_fault()


def main() -> None:
    """Entry point: `InputError` becomes one line on standard error and exit code 2."""
    configure_output()
    try:
        with told_on_stderr():
            require_current_folder()
            app()
    except BrokenPipeError:
        # `raycae show | head`: the reader has gone. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _trial_config(the_space: space.Space, point: str | None, settings: list[str]) -> Any:
    if point is not None and point not in the_space.points:
        known = ", ".join(the_space.points) or "none"
        raise InputError(f"--point {point}: {the_space.name} has no such point; known: {known}")
    written = given(the_space.file.points[point]) if point else {}
    changes = dict(map(parse_setting, settings))
    try:
        return resolve({**the_space.fixed, **written, **changes})
    except InputError as error:
        raise InputError(f"--set {error}" if changes else str(error)) from None


def _reopened(folder: Place) -> Any:
    from contextlib import closing

    from raycae.study import Study, plan_of, read_content

    return closing(Study.resume(folder, plan_of(read_content(folder))))


def _or_dash(value: Any, form: str) -> str:
    import pandas as pd

    return "-" if pd.isna(value) else form.format(value)
