"""Model cards: what a model is, where it comes from and how good it is, as Markdown."""

from __future__ import annotations

import html
import json
import math
from pathlib import PurePath
from typing import Any

from raycae.config import Config
from raycae.errors import InputError
from raycae.formatting import join_words
from raycae.model.architecture import Architecture, build_architecture
from raycae.model.layers import Shape
from raycae.provenance import get_command, get_versions
from raycae.storage.paths import Place
from raycae.study import records, tables
from raycae.study.find import format_study_argument
from raycae.study.plan import read_plan_facts, read_study

Row = dict[str, Any]
"""Values by name."""


def write_model_card(folder: Place, config: Config, usage: str, check: str) -> str:
    """Write the card of a model, with the facts of its study if it belongs to one.

    Args:
        folder: The model folder.
        config: The configuration of the model.
        usage: How its file is used, as Markdown.
        check: How its file was checked, as Markdown.

    Returns:
        The card as Markdown.

    Raises:
        InputError: The study cannot be read.
    """
    architecture = build_architecture(config)
    study, is_trial = folder.parent.parent, is_trial_folder(folder)
    parts = [
        f"# {format_title(folder, config)}",
        describe_network(config, architecture),
        f"## Use\n\n{usage}\n\n{check}",
    ]
    if is_trial and (study / "study.json").is_file():
        content = read_study(study)
        parts += [
            describe_data(content, config),
            describe_errors(format_row(study, int(folder.name))),
        ]
        parts.append(describe_origin(content, folder.name))
    parts.append(
        f"## Export\n\n    {get_command()}\n\n{join_listed(get_versions())}\n\n"
        f"## Settings\n\n```json\n{json.dumps(config.model_dump(mode='json'), indent=1)}\n```"
    )
    return "\n\n".join(parts) + "\n"


def is_trial_folder(folder: Place) -> bool:
    """Return whether a model folder belongs to a trial; a copy may have any name.

    Args:
        folder: The model folder.

    Returns:
        Whether it does.
    """
    return folder.parent.name == "models" and folder.name.isdigit()


def format_title(folder: Place, config: Config) -> str:
    """Write the title of a card.

    Args:
        folder: The model folder.
        config: The configuration of the model.

    Returns:
        The title.
    """
    trial = f"{folder.parent.parent.name}, trial {folder.name}"
    name = trial if is_trial_folder(folder) else folder.name
    does = "colourises grey pictures" if config.task == "colourise" else "reconstructs pictures"
    return f"{escape_text(name)}: an autoencoder that {does}"


def describe_network(config: Config, architecture: Architecture) -> str:
    """Describe the network: parameters, latent, input and layers.

    Args:
        config: The configuration of the model.
        architecture: Its layers.

    Returns:
        Markdown.
    """
    classes = ""
    if config.classes:
        classes = f" It receives the class of each image, 0 to {config.classes - 1}."
    powers = join_words([f"{g:g}" for g in config.gammas])
    inputs = "inputs are" if len(config.gammas) > 1 else "input is"
    power = "powers" if len(config.gammas) > 1 else "power"
    planes = (
        f" Its {inputs} the luma raised to the {power} {powers}. Its outputs are Cb and Cr."
        if config.task == "colourise"
        else ""
    )
    return (
        f"{architecture.n_params:,} parameters; a latent of {architecture.latent_size:,} values "
        f"for an image of {config.image_size} x {config.image_size}.{planes}{classes}\n\n"
        f"```\n{draw_layers(architecture)}\n```\n\n"
        f"Activation {config.activation}, output {config.output}."
    )


def draw_layers(architecture: Architecture) -> str:
    """List the layers, one per line, with the shapes of their outputs.

    Args:
        architecture: The layers.

    Returns:
        The lines; shapes are channels x height x width.
    """
    last = len(architecture.encoder) - 1
    lines: list[tuple[Shape, object]] = [(architecture.in_shape, "input")]
    for i, layer in enumerate((*architecture.encoder, *architecture.decoder)):
        lines.append((layer.out_shape, f"{layer}   <- the latent" if i == last else layer))
    targets = ("added to the latent", "added to the picture")
    for conv, target in zip(architecture.linear, targets, strict=False):
        lines.append((conv.out_shape, f"linear {conv}, {target}"))
    lines += [(conv.out_shape, f"refine {conv}") for conv in architecture.refine]
    return "\n".join(f"{'x'.join(map(str, shape)):>12}  {text}" for shape, text in lines)


def describe_data(content: Row, config: Config) -> str:
    """Describe the training data.

    Args:
        content: The content of `study.json`.
        config: The configuration of the model.

    Returns:
        Markdown.
    """
    data, plan = content["data"], read_plan_facts(content)
    rows = {
        "source": PurePath(data["source"]).name,
        "fingerprint": data["fingerprint"],
        "training images": f"{data['n_train']:,}",
        "validation images": f"{data['n_val']:,}",
        "image size": f"{config.image_size} x {config.image_size}",
        "split by seed": plan["seed"],
    }
    return (
        f"## Data\n\n{join_listed(rows)}\n\nThe test images are the source's test split if it has "
        "one, otherwise a random tenth of its images. Nothing was selected on them."
    )


def describe_errors(row: Row) -> str:
    """Describe the errors of the model.

    Args:
        row: The row of the trial in `trials.parquet`.

    Returns:
        Markdown.
    """

    def format_value(name: str, form: str) -> str:
        return "not measured" if row[name] is None else format(row[name], form)

    rows = {
        "validation MSE": format_value("val_mse", ".6f"),
        "test MSE": format_value("test_mse", ".6f"),
        "mean validation PSNR, dB": format_value("val_psnr_db", ".2f"),
        "validation SSIM": format_value("val_ssim", ".4f"),
        "epochs": f"{row['epochs_run']}, the best one {row['best_epoch']}",
    }
    text = (
        "MSE: mean squared error of RGB in [0, 1], or of Cb and Cr where the model colourises. "
        "PSNR and SSIM: means over the images, computed in RGB."
    )
    stopped = " The trial was stopped early." if row["state"] == records.PRUNED else ""
    return f"## Errors\n\n{join_listed(rows)}\n\n{text}{stopped}"


def describe_origin(content: Row, trial: str) -> str:
    """Describe the training run.

    Args:
        content: The content of `study.json`.
        trial: The number of the trial.

    Returns:
        Markdown.
    """
    rows = {
        "study": content["study"],
        "trial": trial,
        "space": content["space"]["name"],
        "begun": content["created_at"],
        "commit": content["commit"] or "unknown",
        **content["versions"],
    }
    return f"## Training\n\n    {content['command']}\n\n{join_listed(rows)}"


def format_row(study: Place, number: int) -> Row:
    """Read the row of a trial from `trials.parquet`.

    Args:
        study: The folder of the study.
        number: The number of the trial.

    Returns:
        The values by column; None for a missing value.

    Raises:
        InputError: The table cannot be read or lacks the trial.
    """
    trials = tables.read_trials(study, configs=False)
    found = trials[trials["trial_number"] == number].to_dict("records")
    if not found:
        raise InputError(
            f"{study}: models/ contains trial {number}, but trials.parquet does not. Write the "
            f"table again with raycae evaluate {format_study_argument(study)}."
        )
    (row,) = found
    return {
        str(name): None if isinstance(value, float) and math.isnan(value) else value
        for name, value in row.items()
    }


def join_listed(rows: Row) -> str:
    """Write a table of two columns in Markdown.

    Args:
        rows: The values by name.

    Returns:
        The table.
    """
    lines = [f"| {name} | {escape_text(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def escape_text(value: Any) -> str:
    """Write a value on one line, so that it is neither a tag nor a border of a table.

    Args:
        value: The value.

    Returns:
        The escaped text.
    """
    line = " ".join(str(value).split())
    return html.escape(line, quote=False).replace("|", "\\|")
