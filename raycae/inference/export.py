"""`raycae export`: a model as a file for other programs, checked against the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from raycae import data

if TYPE_CHECKING:
    from torch import Tensor

    from raycae.inference.codec import Codec

FORMATS = ("onnx", "pt2", "safetensors")
TOLERANCE = 1e-4
"""Of a pixel in [0, 1]: a fortieth of what 8 bits tell apart. Other kernels add in other order."""
N_IMAGES = 16
Painted = Callable[["Tensor", "Tensor | None"], "Tensor"]
"""RGB (N, 3, H, W) in [0, 1], and labels, to RGB."""


def write_onnx(ready: Codec) -> tuple[bytes, Painted]:
    import onnxruntime
    import torch

    program: Any = torch.onnx.export(
        export_program(ready),
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


def write_pt2(ready: Codec) -> tuple[bytes, Painted]:
    import io

    import torch

    buffer = io.BytesIO()
    torch.export.save(export_program(ready), buffer)
    buffer.seek(0)
    module = torch.export.load(buffer).module()
    return buffer.getvalue(), lambda *given: module(*[x for x in given if x is not None])


def write_safetensors(ready: Codec) -> tuple[bytes, Painted]:
    """The weights, and the configuration in the header: `weights.load_model` of both, from one
    file."""
    import safetensors.torch

    from raycae.inference.codec import RGBAutoencoder
    from raycae.model.architecture import build_architecture
    from raycae.model.autoencoder import Autoencoder

    weights = {name: value.contiguous() for name, value in ready.network.state_dict().items()}
    content = safetensors.torch.save(weights, {"raycae": ready.config.to_json()})
    again = Autoencoder(build_architecture(ready.config))
    again.load_state_dict(safetensors.torch.load(content))
    return content, RGBAutoencoder(again.eval(), ready.task)


def export_program(ready: Codec) -> Any:
    """The `torch.export` program: any number of pictures, and of any size where the network allows
    it."""
    import torch
    from torch.export import Dim

    rgb, labels = iterate_photographs(ready)[-1]
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


def iterate_photographs(ready: Codec) -> list[tuple[Tensor, Tensor | None]]:
    """Batches of crops of photographs: of the trained size, and where the network takes it of
    another one that is no square."""
    import torch

    size, stride = ready.config.image_size, ready.stride
    batches = [crop_photographs(size)]
    if stride:
        batches.append(crop_photographs(4 * stride)[:, :, :, : 3 * stride])
    else:
        batches.append(batches[0][: N_IMAGES // 2])
    classes = ready.config.classes
    return [(rgb, torch.arange(len(rgb)) % classes if classes else None) for rgb in batches]


def crop_photographs(size: int) -> Tensor:
    import torch

    images = data.load_test("photos", image_size=size)
    spread = np.linspace(0, len(images) - 1, N_IMAGES).astype(int)
    return torch.from_numpy(images[spread]).permute(0, 3, 1, 2) / 255
