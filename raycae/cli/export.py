"""`raycae export`: write a trained model as ONNX, a PyTorch program or plain weights."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raycae.cli.card_evidence import read_evidence
from raycae.cli.options import LatentOption, ModelArgument, ResultsOption, find_model
from raycae.errors import InputError
from raycae.formatting import join_words, make_printable
from raycae.inference import model_card
from raycae.inference.export import (
    FORMATS,
    PARTS,
    TOLERANCE,
    Part,
    choose_part,
    write_onnx,
    write_pt2,
    write_safetensors,
)
from raycae.storage.files import require_new_file, require_writable_folder, write_atomic
from raycae.storage.paths import Place

if TYPE_CHECKING:
    from raycae.inference.codec import Codec

FormatOption = Annotated[
    str,
    typer.Option("--format", metavar="NAME", help=f"File format: {join_words(FORMATS, 'or')}."),
]
PartOption = Annotated[
    str,
    typer.Option("--part", metavar="NAME", help=f"Part to export: {join_words(PARTS, 'or')}."),
]


def export_model(
    model: ModelArgument,
    form: FormatOption,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write.",
            show_default="NAME.FORMAT or NAME.PART.FORMAT here",
        ),
    ] = None,
    part: PartOption = "whole",
    latent: LatentOption = None,
    results_folder: ResultsOption = "results",
) -> None:
    """Write a model as ONNX, pt2 or weights, with its model card.

    ONNX files and PyTorch programs (pt2) map RGB images to RGB images (float32, N x 3 x H x W, in
    [0, 1]) and include the colour conversion. With --part, the encoder maps RGB images to latents,
    and the decoder maps latents to RGB images, or to Cb and Cr if the model colourises. The file is
    read back and compared with the model on photographs. If an output differs by more than 0.0001,
    no file is written.

    The model card is FILE.md, with a header for the Hugging Face hub. If the study has sample
    pictures of the trial, they are copied to FILE.png.

    Example: raycae export ex3 --format onnx -o colour.onnx

    Example: raycae export pictures --latent 256 --part encoder --format onnx
    """
    require_known_options(form, part)
    folder = find_model(model, latent, results_folder)
    ending = form if part == "whole" else f"{part}.{form}"
    file = output or Path(f"{get_model_name(folder)}.{ending}")
    page, picture = (file.with_name(f"{file.name}.{kind}") for kind in ("md", "png"))
    evidence = read_evidence(folder)
    sample = None if evidence is None else evidence.sample
    for path in (file, page, *([picture] if sample else [])):
        require_new_file(path)
    require_writable_folder(file.parent)
    if form == "onnx":
        require_onnx()

    from raycae.inference.codec import read_codec

    ready = read_codec(folder)
    exported = choose_part(ready, part, form)
    content, run_file = {
        "onnx": write_onnx,
        "pt2": write_pt2,
        "safetensors": write_safetensors,
    }[form](ready, exported)
    difference = max(
        float((run_file(*inputs) - exported.module(*inputs)).abs().max().detach())
        for inputs in exported.batches
    )
    if not difference <= TOLERANCE:  # not a number, too
        raise InputError(
            f"{file}: not written. Its {exported.output_name} differ from the model's by "
            f"{difference:.2g}; the limit is {TOLERANCE:g}."
        )
    n = sum(len(inputs[0]) for inputs in exported.batches)
    scale = "" if exported.output_name == "latents" else " (values range from 0 to 1)"
    said = f"largest difference from the model on {n} photographs: {difference:.2g}{scale}"
    usage = describe_usage(ready, exported, form, file.name)
    text = model_card.write_model_card(
        folder, ready.config, usage, f"Checked: {said}.", evidence, picture.name
    )
    files = {file: content, page: text.encode("utf-8", errors="replace")}
    with ExitStack() as undo:  # A model without its card would make the next run refuse.
        for path, written in (files | ({picture: sample.png} if sample else {})).items():
            write_atomic(path, written)
            undo.callback(path.unlink)
        undo.pop_all()
    print(f"{make_printable(str(file))}: {len(content):,} bytes; {said}")
    for path in (page, *([picture] if sample else [])):
        print(make_printable(str(path)))


def require_known_options(form: str, part: str) -> None:
    """Raise `InputError` if the format or the part is unknown, or if they do not fit together.

    Args:
        form: The option `--format`.
        part: The option `--part`.
    """
    if form not in FORMATS:
        raise InputError(f"--format {form}: unknown. Use {join_words(FORMATS, 'or')}.")
    if part not in PARTS:
        raise InputError(f"--part {part}: unknown. Use {join_words(PARTS, 'or')}.")
    if part != "whole" and form == "safetensors":
        raise InputError(
            f"--part {part}: safetensors holds the weights of the whole network. Use --format onnx "
            "or pt2, or remove --part."
        )


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


def describe_usage(ready: Codec, part: Part, form: str, name: str) -> str:
    """Write the section of the model card that shows how to use the file.

    Args:
        ready: The model.
        part: The part of the model that the file holds.
        form: The format of the file, one of `FORMATS`.
        name: The name of the file.

    Returns:
        Markdown.
    """
    inputs, output = part.input_names, part.output_name
    given = ", ".join(f"{key!r}: {key}" for key in inputs).replace("'", '"')
    code = {
        "onnx": f"import onnxruntime\n\nsession = onnxruntime.InferenceSession({name!r})\n"
        f"({output},) = session.run(None, {{{given}}})",
        "pt2": f"import torch\n\npaint = torch.export.load({name!r}).module()\n"
        f"{output} = paint({', '.join(inputs)})",
        "safetensors": "import safetensors.torch\n\n"
        f"weights = safetensors.torch.load_file({name!r})",
    }[form]
    io = (
        "The file holds weights only. Its header entry `raycae` contains the settings below; the "
        "package `raycae.model` builds the network from them."
        if form == "safetensors"
        else describe_shapes(ready, part)
    )
    return f"{io}\n\n```python\n{code}\n```"


def describe_shapes(ready: Codec, part: Part) -> str:
    """Write the shapes and ranges of a program's inputs and output.

    Args:
        ready: The model.
        part: The part of the model that it holds.

    Returns:
        Markdown.
    """
    size, stride = ready.config.image_size, ready.stride if part.stride else None
    channels, height, width = ready.architecture.latent_shape
    if stride:
        sides = f"H and W are multiples of {stride}, from {min(size, 2 * stride)} on"
        latents = f"float32 (N, {channels}, H / {stride}, W / {stride})"
    else:
        sides = f"H and W are {size}: larger pictures must be cut into tiles"
        latents = f"float32 (N, {channels}, {height}, {width})"
    pictures = "float32 (N, 3, H, W), RGB in [0, 1]"
    labels = "; `labels`, int64 (N,), the class of each" if ready.config.classes else ""
    shown = {
        "rgb": f"{pictures}{labels}",
        "latents": latents,
        "pictures": "RGB pictures of that shape and range"
        if "rgb" in part.input_names
        else pictures,
        "colours": "float32 (N, 2, H, W), Cb and Cr in [0, 1]",
    }
    name, output = part.input_names[0], part.output_name
    return f"In: `{name}`, {shown[name]}. Out: {shown[output]}. N is any number; {sides}."
