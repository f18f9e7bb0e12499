"""A model card: what a model is, where it comes from and how good it is, as Markdown."""

from __future__ import annotations

import html
import json
import math
from pathlib import PurePath
from typing import Any

from raycae.config import Config
from raycae.errors import InputError
from raycae.model.architecture import Architecture, build_architecture
from raycae.provenance import get_command, get_versions
from raycae.storage.paths import Place
from raycae.study import records, tables
from raycae.study.plan import read_plan_facts, read_study

Row = dict[str, Any]


def write_model_card(folder: Place, config: Config, how: str, shown: str) -> str:
    """The card of the model in `folder`; `how` says how its file is used, `shown` how it was
    checked. Of a model that lies within a study, `study.json` and `trials.parquet` tell the rest.

    Raises `InputError` where those are there but cannot be read.
    """
    net = build_architecture(config)
    study, of_trial = folder.parent.parent, is_trial_folder(folder)
    parts = [
        f"# {format_title(folder, config)}",
        describe_network(config, net),
        f"## Use\n\n{how}\n\n{shown}",
    ]
    if of_trial and (study / "study.json").is_file():
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
    """A copy may lie beside it, by a name of its own."""
    return folder.parent.name == "models" and folder.name.isdigit()


def format_title(folder: Place, config: Config) -> str:
    trial = f"{folder.parent.parent.name}, trial {folder.name}"
    name = trial if is_trial_folder(folder) else folder.name
    does = "colourises grey pictures" if config.task == "colourise" else "reconstructs pictures"
    return f"{escape_text(name)}: an autoencoder that {does}"


def describe_network(config: Config, net: Architecture) -> str:
    told = (
        f" It is told the class of each image, 0 to {config.classes - 1}." if config.classes else ""
    )
    planes = (
        f" Its input is the luma to the powers {', '.join(f'{g:g}' for g in config.gammas)}, its "
        f"output Cb and Cr."
        if config.task == "colourise"
        else ""
    )
    return (
        f"{net.n_params:,} parameters; a latent of {net.latent_size:,} numbers for a picture of "
        f"{config.image_size} x {config.image_size}.{planes}{told}\n\n"
        f"```\n{draw_layers(net)}\n```\n\n"
        f"Activation {config.activation}, output {config.output}."
    )


def draw_layers(net: Architecture) -> str:
    """A layer a line, with what it puts out: channels x height x width."""
    last = len(net.encoder) - 1
    lines = [("x".join(map(str, net.in_shape)), "input")]
    for i, layer in enumerate((*net.encoder, *net.decoder)):
        shape = "x".join(map(str, layer.out_shape))
        lines.append((shape, f"{layer}   <- the latent" if i == last else str(layer)))
    beside = zip(("added to the latent", "added to the picture"), net.linear, strict=False)
    lines += [("x".join(map(str, conv.out_shape)), f"linear {conv}, {how}") for how, conv in beside]
    lines += [("x".join(map(str, conv.out_shape)), f"refine {conv}") for conv in net.refine]
    return "\n".join(f"{shape:>12}  {what}" for shape, what in lines)


def describe_data(content: Row, config: Config) -> str:
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
        f"## Data\n\n{join_listed(rows)}\n\nTest images are the source's own or a tenth of it, set "
        "aside by the seed; nothing was chosen by them."
    )


def describe_errors(row: Row) -> str:
    def shown(name: str, form: str) -> str:
        return "not measured" if row[name] is None else format(row[name], form)

    rows = {
        "validation MSE": shown("val_mse", ".6f"),
        "test MSE": shown("test_mse", ".6f"),
        "validation PSNR, dB": shown("val_psnr_db", ".2f"),
        "validation SSIM": shown("val_ssim", ".4f"),
        "epochs": f"{row['epochs_run']}, the best one {row['best_epoch']}",
    }
    what = (
        "MSE: mean squared error of RGB in [0, 1], or of Cb and Cr where the model colourises. "
        "PSNR and SSIM: of the RGB pictures, the mean over the images."
    )
    stopped = " The trial was stopped early." if row["state"] == records.PRUNED else ""
    return f"## Errors\n\n{join_listed(rows)}\n\n{what}{stopped}"


def describe_origin(content: Row, trial: str) -> str:
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
    trials = tables.read_trials(study)
    found = trials[trials["trial_number"] == number].to_dict("records")
    if not found:
        raise InputError(f"{study}: trials.parquet has no trial {number}, models/ has its model")
    (row,) = found
    return {
        str(name): None if isinstance(value, float) and math.isnan(value) else value
        for name, value in row.items()
    }


def join_listed(rows: Row) -> str:
    lines = [f"| {name} | {escape_text(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def escape_text(value: Any) -> str:
    """On one line, and neither a tag nor a table's border to whoever shows the page."""
    line = " ".join(str(value).split())
    return html.escape(line, quote=False).replace("|", "\\|")
