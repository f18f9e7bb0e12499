"""Model cards in Markdown: a model's purpose, origin and errors.

A card begins with the YAML header that the Hugging Face hub reads.
"""

from __future__ import annotations

import html
import json
import math
import os
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from raycae.config import Config
from raycae.errors import InputError
from raycae.formatting import join_words, make_printable
from raycae.inference.hub_header import PSNR_NAME, write_header
from raycae.model.architecture import Architecture, build_architecture
from raycae.model.layers import Shape
from raycae.provenance import get_command, get_versions
from raycae.storage.paths import Place
from raycae.study import records, tables
from raycae.study.find import format_study_argument
from raycae.study.plan import read_plan_facts, read_study

Row = dict[str, Any]
"""Values by name."""


@dataclass(frozen=True)
class Sample:
    """A sheet of sample pictures.

    Attributes:
        png: The content of the file.
        rows: The labels of its rows, from top to bottom.
        split: The split of the images, `test` or `validation`.
    """

    png: bytes
    rows: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class Evidence:
    """What the report of a study knows about a model.

    Attributes:
        baseline: The comparison with the baseline, as Markdown.
        sample: The sheet of the trial; None if it is not drawn.
        test_psnr_db: Mean PSNR of the test images on which the report measures, in dB; None if it
            is unknown.
    """

    baseline: str
    sample: Sample | None
    test_psnr_db: float | None


def write_model_card(
    folder: Place,
    config: Config,
    usage: str,
    check: str,
    evidence: Evidence | None = None,
    picture: str = "",
) -> str:
    """Write the card of a model, with the facts of its study if it belongs to one.

    Args:
        folder: The model folder.
        config: The configuration of the model.
        usage: How its file is used, as Markdown.
        check: How its file was checked, as Markdown.
        evidence: What the report of its study knows about it; None outside a study.
        picture: The name of the file with the sample pictures, in the folder of the card.

    Returns:
        The card as Markdown.

    Raises:
        InputError: The study cannot be read.
    """
    architecture = build_architecture(config)
    study = find_study_of_model(folder)
    content = None if study is None else read_study(study)
    row = None if study is None else format_row(study, int(folder.name))
    test_psnr_db = None if evidence is None else evidence.test_psnr_db
    parts = [
        write_header(format_name(folder), config, content, row, test_psnr_db),
        f"# {format_title(folder, config)}",
        describe_network(config, architecture),
        f"## Use\n\n{usage}\n\n{check}",
    ]
    if study is not None and content is not None and row is not None:
        parts += [describe_data(content, config), describe_errors(row, evidence)]
        if evidence is not None:
            parts += [
                f"## Baseline\n\n{evidence.baseline}",
                describe_sample(evidence.sample, picture, format_study_argument(study)),
            ]
        parts.append(describe_origin(content, folder.name))
    parts.append(
        f"## Export\n\n    {get_command()}\n\n{join_listed(get_versions())}\n\n"
        f"## Settings\n\n```json\n{json.dumps(config.model_dump(mode='json'), indent=1)}\n```"
    )
    return "\n\n".join(parts) + "\n"


def find_study_of_model(folder: Place) -> Place | None:
    """Find the study that a model belongs to.

    Args:
        folder: The model folder.

    Returns:
        The folder of the study; None if the model is not that of a trial.
    """
    study = folder.parent.parent
    return study if is_trial_folder(folder) and (study / "study.json").is_file() else None


def is_trial_folder(folder: Place) -> bool:
    """Return whether a model folder belongs to a trial; a copy may have any name.

    Args:
        folder: The model folder.

    Returns:
        Whether it does.
    """
    return folder.parent.name == "models" and folder.name.isdigit()


def format_name(folder: Place) -> str:
    """Name a model after its study and trial, or after its folder outside a study.

    Args:
        folder: The model folder.
    """
    trial = f"{folder.parent.parent.name}, trial {folder.name}"
    return trial if is_trial_folder(folder) else folder.name


def format_title(folder: Place, config: Config) -> str:
    """Write the title of a card.

    Args:
        folder: The model folder.
        config: The configuration of the model.

    Returns:
        The title.
    """
    does = "colourises grey pictures" if config.task == "colourise" else "reconstructs pictures"
    return f"{escape_text(format_name(folder))}: an autoencoder that {does}"


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


def describe_errors(row: Row, evidence: Evidence | None = None) -> str:
    """Describe the errors of the model.

    Args:
        row: The row of the trial in `trials.parquet`.
        evidence: What the report of the study knows about the model.

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
    }
    if evidence is not None and evidence.test_psnr_db is not None:
        rows[f"{PSNR_NAME}, dB"] = f"{evidence.test_psnr_db:.2f}"
    rows["epochs"] = f"{row['epochs_run']}, the best one {row['best_epoch']}"
    text = (
        "MSE: mean squared error of RGB in [0, 1], or of Cb and Cr where the model colourises. "
        "PSNR and SSIM: means over the images, computed in RGB."
    )
    stopped = " The trial was stopped early." if row["state"] == records.PRUNED else ""
    return f"## Errors\n\n{join_listed(rows)}\n\n{text}{stopped}"


def describe_sample(sample: Sample | None, picture: str, study: str) -> str:
    """Show the sample pictures and describe their rows.

    Args:
        sample: The sheet; None if it is not drawn.
        picture: The name of its file, in the folder of the card.
        study: The study, as an argument of a command.

    Returns:
        Markdown.
    """
    if sample is None:
        return (
            "## Sample pictures\n\nThis trial has no sample pictures. The following command draws "
            "them for the best trials of the study. Export the model again afterwards.\n\n"
            f"    raycae report {make_printable(study)}"
        )
    rows = join_words([row[0].lower() + row[1:] if row != "PCA" else row for row in sample.rows])
    texts = [
        f"Each column is one {sample.split} image; the images were not chosen by their errors.",
        f"The rows from top to bottom: {rows}.",
    ]
    if any(row.startswith("Difference") for row in sample.rows):
        texts.append(
            f"The difference is output minus original, amplified {tables.AMPLIFIED} times, with "
            "grey for no difference."
        )
    if "PCA" in sample.rows:
        texts.append("The PCA row shows the best PCA whose latent is no larger than the model's.")
    link = quote(os.fsencode(picture))
    return f"## Sample pictures\n\n![Sample pictures in rows: {rows}]({link})\n\n{' '.join(texts)}"


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
