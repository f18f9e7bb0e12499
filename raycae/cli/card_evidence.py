"""What the report of a study knows about a model: PCA baseline, sample pictures and test PSNR."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from raycae.formatting import format_count, format_factor, make_printable
from raycae.inference.model_card import (
    Evidence,
    Row,
    Sample,
    escape_text,
    find_study_of_model,
    format_row,
)
from raycae.study import tables
from raycae.study.find import format_study_argument
from raycae.study.plan import read_study

if TYPE_CHECKING:
    import pandas as pd

    from raycae.storage.paths import Place


def read_evidence(folder: Place) -> Evidence | None:
    """Read what the report of a study knows about a model.

    Args:
        folder: The model folder.

    Returns:
        The evidence; None if the model does not belong to a study.

    Raises:
        InputError: A table or picture of the study cannot be read.
    """
    study = find_study_of_model(folder)
    if study is None:
        return None
    from raycae.report.sections.pictures import average_measures

    content, number = read_study(study), int(folder.name)
    baselines = tables.read_baselines(study, content["data"]["fingerprint"])
    painted = tables.read_pictures(study)
    psnr = average_measures(painted).get(number, {}).get("psnr_db")
    return Evidence(
        describe_baseline(format_row(study, number), baselines, format_study_argument(study)),
        read_sample(study, number, painted, content["task"]),
        psnr if psnr is not None and math.isfinite(psnr) else None,
    )


def read_sample(
    study: Place, number: int, painted: pd.DataFrame | None, task: str
) -> Sample | None:
    """Read the sheet of a trial.

    Args:
        study: The folder of the study.
        number: The trial.
        painted: The content of `pictures.parquet`; None without it.
        task: The task.

    Returns:
        The sheet; None if it is not drawn.

    Raises:
        InputError: The file is not a PNG.
    """
    from raycae.report.sections.pictures import read_pictures

    pictures = read_pictures(study, number, painted, task)
    if pictures is None:
        return None
    png = (study / "pictures" / f"{number}.png").read_bytes()
    return Sample(png, pictures.rows, pictures.split)


def describe_baseline(row: Row, baselines: pd.DataFrame | None, study: str) -> str:
    """Compare a model with the best PCA of at most its latent size.

    In colourisation there is no PCA. The best of the other baselines takes its place.

    Args:
        row: The row of the trial in `trials.parquet`.
        baselines: The baselines of the study; None if they were not measured.
        study: The study, as an argument of a command.

    Returns:
        Markdown.
    """
    if baselines is None or baselines.empty:
        return (
            "No baseline was measured. The following command measures PCA, or other baselines if "
            f"the models colourise.\n\n    raycae report {make_printable(study)}"
        )
    from raycae.report.latent_error import find_best_linear, split_codes_and_levels
    from raycae.report.trials import get_baseline_name

    code = find_best_linear(split_codes_and_levels(baselines)[0], row["latent_size"])
    if code is not None:
        size = format_count(code.latent_size, "number")
        name, which = f"{get_baseline_name(code.baseline)}, {size}", "this PCA"
        errors = code.val_mse, code.test_mse
        text = (
            "PCA was fitted on the training images. This is the best PCA measured at the latent "
            f"size of the model ({format_count(row['latent_size'], 'number')}) or smaller."
        )
    else:
        levels = baselines[baselines["latent_size"].isna()].sort_values("val_mse")
        if levels.empty:
            return "No PCA of at most the latent size of the model was measured."
        best = levels.iloc[0]
        name, which = get_baseline_name(str(best["baseline"])), "this baseline"
        errors = read_number(best["val_mse"]), read_number(best["test_mse"])
        text = "This is the best of the baselines measured for this task."
    rows = {"this model": (read_number(row["val_mse"]), read_number(row["test_mse"])), name: errors}
    lines = ["| | validation MSE | test MSE |", "|---|---|---|"]
    for label, values in rows.items():
        cells = ["not measured" if math.isnan(value) else f"{value:.6f}" for value in values]
        lines.append(f"| {escape_text(label)} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    factors = compare_errors(rows["this model"], errors, which)
    return f"{table}\n\n{' '.join(filter(None, (factors, text)))}"


def read_number(value: Any) -> float:
    """Return a value of a table as a number; NaN where it is missing.

    Args:
        value: The value.
    """
    import pandas as pd

    return math.nan if pd.isna(value) else float(value)


def compare_errors(model: tuple[float, float], baseline: tuple[float, float], which: str) -> str:
    """Compare the errors of a model with those of a baseline.

    Args:
        model: Its validation and test error; NaN where it is not measured.
        baseline: Those of the baseline.
        which: What the baseline is called.

    Returns:
        One sentence per split; empty if nothing can be compared.
    """
    from raycae.report.plotting import EXACT

    sentences = []
    for split, own, other in zip(("validation", "test"), model, baseline, strict=True):
        if math.isnan(own) or math.isnan(other):
            continue
        if other <= EXACT:
            sentences.append(f"The {split} error of {which} is 0.")
        else:
            factor = format_factor(own / other)
            sentences.append(f"The {split} error of the model is {factor} that of {which}.")
    return " ".join(sentences)
