"""`raycae export`: a model as a file for other programs, checked against the model itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from raycae import card, data, results
from raycae.errors import InputError, printable
from raycae.predict import ModelArgument
from raycae.search import ResultsOption
from raycae.storage import Place, write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from raycae.codec import Codec

FORMATS = ("onnx", "pt2", "safetensors")
TOLERANCE = 1e-4
"""Of a pixel in [0, 1]: a fortieth of what 8 bits tell apart. Other kernels add in other order."""
N_IMAGES = 16

Painted = Callable[["Tensor", "Tensor | None"], "Tensor"]
"""RGB (N, 3, H, W) in [0, 1], and labels, to RGB."""


def export(
    model: ModelArgument,
    form: Annotated[str, typer.Option("--format", metavar="NAME", help=f"{', '.join(FORMATS)}.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to.", show_default="NAME.FORMAT here"
        ),
    ] = None,
    results_folder: ResultsOption = "results",
) -> None:
    """Write a model as ONNX, PyTorch program (pt2) or plain weights, and its card beside it.

    Programs take RGB pictures, float32 (N, 3, H, W) in [0, 1], and give such; whatever colours
    have to be converted is inside. What was written is read back and compared with the model on
    photographs; if it differs by more than 0.0001 anywhere, there is no file.

    Example: raycae export ex3 --format onnx -o colour.onnx
    """
    if form not in FORMATS:
        raise InputError(f"--format {form}: allowed are {', '.join(FORMATS)}")
    folder = results.find_model(model, results_folder)
    file = output or Path(f"{_name(folder)}.{form}")
    page = file.with_name(f"{file.name}.md")
    _check(file, page)
    if form == "onnx":
        _require_onnx()

    from raycae import codec

    ready = codec.read(folder)
    content, painted = {"onnx": _onnx, "pt2": _pt2, "safetensors": _safetensors}[form](ready)
    batches = _photographs(ready)
    difference = max(
        float((painted(rgb, labels) - ready.painter(rgb, labels)).abs().max().detach())
        for rgb, labels in batches
    )
    if not difference <= TOLERANCE:  # not a number, too
        raise InputError(
            f"{file}: not written; its pictures differ from the model's by {difference:.2g}, "
            f"allowed is {TOLERANCE:g}"
        )
    n = sum(len(rgb) for rgb, _ in batches)
    said = f"largest difference on {n} photographs: {difference:.2g} of 1"
    text = card.write(folder, ready.config, _how(ready, form, file.name), f"Checked: {said}.")
    write_whole(file, content)
    write_whole(page, text.encode("utf-8", errors="replace"))
    print(f"{printable(str(file))}: {len(content):,} bytes; {said}")
    print(printable(str(page)))


def _name(folder: Place) -> str:
    """`ex3-12` of a trial's model in a study, else the folder's name."""
    within = folder.parent.name == "models"
    return f"{folder.parent.parent.name}-{folder.name}" if within else folder.name


def _check(*files: Path) -> None:
    for file in files:
        try:
            if file.exists():
                raise InputError(
                    f"{file}: exists already; nothing is overwritten, choose another -o"
                )
            writable = file.parent.is_dir() and os.access(file.parent, os.W_OK)
        except OSError as error:
            raise InputError(f"-o {file}: {error.strerror}") from None
        if not writable:
            raise InputError(f"-o {file}: {file.parent} is no folder that may be written")


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format onnx: {error.name} is missing; pip install 'raycae[onnx]'"
        ) from None


def _onnx(ready: Codec) -> tuple[bytes, Painted]:
    import onnxruntime
    import torch

    program: Any = torch.onnx.export(
        _program(ready),
        dynamo=True,
        verbose=False,
        input_names=["rgb", "labels"][: 1 + bool(ready.config.classes)],
        output_names=["pictures"],
    )
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def painted(*given: Tensor | None) -> Tensor:
        fed = {
            name: value.numpy()
            for name, value in zip(("rgb", "labels"), given, strict=True)
            if value is not None
        }
        return torch.from_numpy(session.run(["pictures"], fed)[0])

    return content, painted


def _pt2(ready: Codec) -> tuple[bytes, Painted]:
    import io

    import torch

    buffer = io.BytesIO()
    torch.export.save(_program(ready), buffer)
    buffer.seek(0)
    module = torch.export.load(buffer).module()
    return buffer.getvalue(), lambda *given: module(*[x for x in given if x is not None])


def _safetensors(ready: Codec) -> tuple[bytes, Painted]:
    """The weights, and the configuration in the header: `model.load` of both, from one file."""
    import safetensors.torch

    from raycae.architecture import architecture
    from raycae.codec import Painter
    from raycae.model import Autoencoder

    weights = {name: value.contiguous() for name, value in ready.network.state_dict().items()}
    content = safetensors.torch.save(weights, {"raycae": ready.config.to_json()})
    again = Autoencoder(architecture(ready.config))
    again.load_state_dict(safetensors.torch.load(content))
    return content, Painter(again.eval(), ready.task)


def _program(ready: Codec) -> Any:
    """The `torch.export` program: any number of pictures, and of any size where the network allows
    it."""
    import torch
    from torch.export import Dim

    rgb, labels = _photographs(ready)[-1]
    rgb = rgb.contiguous()  # or the program would hold for pictures of no other layout
    # Weights in channels-last order have pt2 warn that it cannot find them whole.
    ready.painter.to(memory_format=torch.contiguous_format)
    sizes: dict[int, Any] = {0: Dim("N")}
    if ready.stride:
        for axis, side in ((2, "height"), (3, "width")):
            sizes[axis] = ready.stride * Dim(side) if ready.stride > 1 else Dim(side)
    given = (rgb,) if labels is None else (rgb, labels)
    shapes = (sizes,) if labels is None else (sizes, {0: sizes[0]})
    with torch.no_grad():
        return torch.export.export(ready.painter, given, dynamic_shapes=shapes)


def _photographs(ready: Codec) -> list[tuple[Tensor, Tensor | None]]:
    """Batches of crops of photographs: of the trained size, and where the network takes it of
    another one that is no square."""
    import torch

    size, stride = ready.config.image_size, ready.stride
    batches = [_crops(size)]
    if stride:
        batches.append(_crops(4 * stride)[:, :, :, : 3 * stride])
    else:
        batches.append(batches[0][: N_IMAGES // 2])
    classes = ready.config.classes
    return [(rgb, torch.arange(len(rgb)) % classes if classes else None) for rgb in batches]


def _crops(size: int) -> Tensor:
    import torch

    images = data.load_test("photos", image_size=size)
    spread = np.linspace(0, len(images) - 1, N_IMAGES).astype(int)
    return torch.from_numpy(images[spread]).permute(0, 3, 1, 2) / 255


def _how(ready: Codec, form: str, name: str) -> str:
    size, stride = ready.config.image_size, ready.stride
    if stride:
        sides = f"H and W are multiples of {stride}, from {2 * stride} on"
    else:
        sides = f"H and W are {size}: larger pictures have to be cut into tiles"
    told = "; `labels`, int64 (N,), the class of each" if ready.config.classes else ""
    io = (
        f"In: `rgb`, float32 (N, 3, H, W), RGB in [0, 1]{told}. Out: RGB pictures of that "
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
            "`raycae.architecture` and `raycae.model` build the network."
        )
    return f"{io}\n\n```python\n{code}\n```"
