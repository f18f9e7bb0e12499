"""`raycae export`: write a trained model as ONNX, a PyTorch program or plain weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raycae.cli.options import ModelArgument, ResultsOption
from raycae.errors import InputError
from raycae.formatting import make_printable
from raycae.inference import model_card
from raycae.inference.export import (
    FORMATS,
    TOLERANCE,
    iterate_photographs,
    write_onnx,
    write_pt2,
    write_safetensors,
)
from raycae.storage.files import require_new_file, require_writable_folder, write_atomic
from raycae.storage.paths import Place
from raycae.study import find

if TYPE_CHECKING:
    from raycae.inference.codec import Codec


def export_model(
    model: ModelArgument,
    form: Annotated[str, typer.Option("--format", metavar="NAME", help=f"{', '.join(FORMATS)}.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write.", show_default="NAME.FORMAT here"
        ),
    ] = None,
    results_folder: ResultsOption = "results",
) -> None:
    """Write a model as ONNX, PyTorch program (pt2) or plain weights, with its model card.

    Programs map RGB pictures to RGB pictures, both float32 (N, 3, H, W) in [0, 1]; they convert
    colours themselves. The file is read back and compared with the model on photographs. If an
    output differs by more than 0.0001, no file is written.

    Example: raycae export ex3 --format onnx -o colour.onnx
    """
    if form not in FORMATS:
        raise InputError(f"--format {form}: allowed are {', '.join(FORMATS)}")
    folder = find.find_model(model, results_folder)
    file = output or Path(f"{get_model_name(folder)}.{form}")
    page = file.with_name(f"{file.name}.md")
    require_new_file(file)
    require_new_file(page)
    require_writable_folder(file.parent)
    if form == "onnx":
        require_onnx()

    from raycae.inference.codec import read_codec

    ready = read_codec(folder)
    content, painted = {"onnx": write_onnx, "pt2": write_pt2, "safetensors": write_safetensors}[
        form
    ](ready)
    batches = iterate_photographs(ready)
    difference = max(
        float((painted(rgb, labels) - ready.rgb_network(rgb, labels)).abs().max().detach())
        for rgb, labels in batches
    )
    if not difference <= TOLERANCE:  # not a number, too
        raise InputError(
            f"{file}: not written; its pictures differ from the model's by {difference:.2g}, "
            f"allowed is {TOLERANCE:g}"
        )
    n = sum(len(rgb) for rgb, _ in batches)
    said = f"largest difference on {n} photographs: {difference:.2g} of 1"
    text = model_card.write_model_card(
        folder, ready.config, describe_usage(ready, form, file.name), f"Checked: {said}."
    )
    write_atomic(file, content)
    write_atomic(page, text.encode("utf-8", errors="replace"))
    print(f"{make_printable(str(file))}: {len(content):,} bytes; {said}")
    print(make_printable(str(page)))


def get_model_name(folder: Place) -> str:
    """Name a model after its folder.

    Args:
        folder: The folder of the model.

    Returns:
        Study and trial, such as `ex3-12`, or the name of the folder if it is in no study.
    """
    within = folder.parent.name == "models"
    return f"{folder.parent.parent.name}-{folder.name}" if within else folder.name


def require_onnx() -> None:
    """Raise `InputError` unless the packages of the extra `onnx` are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format onnx: {error.name} is missing; pip install 'raycae[onnx]'"
        ) from None


def describe_usage(ready: Codec, form: str, name: str) -> str:
    """Write the section of the model card that shows how to use the file.

    Args:
        ready: The model.
        form: The format of the file, one of `FORMATS`.
        name: The name of the file.

    Returns:
        Markdown.
    """
    size, stride = ready.config.image_size, ready.stride
    if stride:
        sides = f"H and W are multiples of {stride}, from {2 * stride} on"
    else:
        sides = f"H and W are {size}: larger pictures have to be cut into tiles"
    labels = "; `labels`, int64 (N,), the class of each" if ready.config.classes else ""
    io = (
        f"In: `rgb`, float32 (N, 3, H, W), RGB in [0, 1]{labels}. Out: RGB pictures of that "
        f"shape and range. N is any number; {sides}."
    )
    more = ', "labels": labels' if ready.config.classes else ""
    args = "rgb, labels" if ready.config.classes else "rgb"
    code = {
        "onnx": f"import onnxruntime\n\nsession = onnxruntime.InferenceSession({name!r})\n"
        f'(pictures,) = session.run(None, {{"rgb": rgb{more}}})',
        "pt2": f"import torch\n\npaint = torch.export.load({name!r}).module()\n"
        f"pictures = paint({args})",
        "safetensors": "import safetensors.torch\n\n"
        f"weights = safetensors.torch.load_file({name!r})",
    }[form]
    if form == "safetensors":
        io = (
            "Weights only; `raycae` in the file's header holds the settings below, from which "
            "`raycae.model` builds the network."
        )
    return f"{io}\n\n```python\n{code}\n```"
