"""The YAML header of a model card, which the Hugging Face hub reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from raycae.config import Config
from raycae.study import tables

HUB_DATASETS = {"cifar10": "uoft-cs/cifar10"}
"""Names of the built-in sources on the Hugging Face hub."""
OWN_IMAGES = "imagefolder"
"""Type of images that are not on the hub, as the library `datasets` calls a folder of images."""
TAGS = {"reconstruct": "image-compression", "colourise": "image-colorization"}
"""Tag of each task on the Hugging Face hub."""
TASK_NAMES = {"reconstruct": "Image reconstruction", "colourise": "Image colourisation"}
"""Name of each task in the results of a card."""
PSNR_NAME = f"mean test PSNR of at most {tables.N_MEASURED} images"
"""Name of the PSNR that the report measures."""


class QuotedText(str):
    """A text that YAML writes in double quotes, so that every reader takes it for a text."""


class HeaderDumper(yaml.SafeDumper):
    """Writes the YAML header of a card."""


HeaderDumper.add_representer(
    QuotedText,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"'),
)


def write_header(
    name: str,
    config: Config,
    content: Mapping[str, Any] | None,
    row: Mapping[str, Any] | None,
    test_psnr_db: float | None,
) -> str:
    """Write the YAML header that the Hugging Face hub reads.

    The format is that of https://github.com/huggingface/hub-docs/blob/main/modelcard.md. There is
    no license, because only the owner of the model can choose one.

    Args:
        name: The name of the model.
        config: The configuration of the model.
        content: The content of `study.json`; None outside a study.
        row: The row of the trial in `trials.parquet`; None outside a study.
        test_psnr_db: Mean PSNR of the test images in dB; None if it is unknown.

    Returns:
        The header with its two border lines. `model-index` is left out without a test error.
    """
    header: dict[str, Any] = {
        "library_name": "raycae",
        "pipeline_tag": "image-to-image",
        "tags": ["autoencoder", TAGS[config.task]],
    }
    source = "" if content is None else PurePath(content["data"]["source"]).name
    if source in HUB_DATASETS:
        header["datasets"] = [HUB_DATASETS[source]]
    if row is not None and row["test_mse"] is not None:
        metrics = [{"type": "mse", "value": round_value(row["test_mse"]), "name": "Test MSE"}]
        if test_psnr_db is not None:
            psnr = round_value(test_psnr_db)
            metrics.append({"type": "psnr", "value": psnr, "name": f"{PSNR_NAME}, dB"})
        result = {
            "task": {"type": "image-to-image", "name": TASK_NAMES[config.task]},
            "dataset": {
                "type": HUB_DATASETS.get(source, OWN_IMAGES),
                "name": QuotedText(source),
                "split": "test",
            },
            "metrics": metrics,
        }
        header["model-index"] = [{"name": QuotedText(name), "results": [result]}]
    text = yaml.dump(
        header, Dumper=HeaderDumper, sort_keys=False, allow_unicode=True, width=math.inf
    )
    # Only quoted texts can contain `<`. A page that does not know the header must not see a tag.
    return f"---\n{text}---".replace("<", "\\x3c")


def round_value(value: float) -> float:
    """Round a number to six significant digits.

    Args:
        value: The number.
    """
    return float(f"{value:.6g}")
