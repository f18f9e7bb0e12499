"""Encode a model in formats for other programs, checked against the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from raycae import data

if TYPE_CHECKING:
    from torch import Tensor

    from raycae.inference.codec import Codec

FORMATS = ("onnx", "pt2", "safetensors")
"""Names of the formats."""
TOLERANCE = 1e-4
"""Maximum difference from the model, for pixel values in [0, 1].

Other programs add in another order. This is a fortieth of the step between 8-bit values.
"""
N_IMAGES = 16
"""Number of photographs per batch that the check runs on."""
RGBFunction = Callable[["Tensor", "Tensor | None"], "Tensor"]
"""A function from RGB, float (N, 3, H, W) in [0, 1], and labels or None, to RGB."""


def write_onnx(codec: Codec) -> tuple[bytes, RGBFunction]:
    """Encode a model as ONNX.

    Args:
        codec: The model.

    Returns:
        The content of the file, and a function that runs it.
    """
    import onnxruntime
    import torch

    program: Any = torch.onnx.export(
        export_program(codec),
        dynamo=True,
        verbose=False,
        input_names=["rgb", "labels"][: 1 + bool(codec.config.classes)],
        output_names=["pictures"],
    )
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run_session(*inputs: Tensor | None) -> Tensor:
        fed = {
            name: value.numpy()
            for name, value in zip(("rgb", "labels"), inputs, strict=True)
            if value is not None
        }
        return torch.from_numpy(session.run(["pictures"], fed)[0])

    return content, run_session


def write_pt2(codec: Codec) -> tuple[bytes, RGBFunction]:
    """Encode a model as a PyTorch program.

    Args:
        codec: The model.

    Returns:
        The content of the file, and a function that runs it.
    """
    import io

    import torch

    buffer = io.BytesIO()
    torch.export.save(export_program(codec), buffer)
    buffer.seek(0)
    module = torch.export.load(buffer).module()
    return buffer.getvalue(), lambda *inputs: module(*[x for x in inputs if x is not None])


def write_safetensors(codec: Codec) -> tuple[bytes, RGBFunction]:
    """Encode the weights of a model, with the configuration in the header.

    Args:
        codec: The model.

    Returns:
        The content of the file, and a function that runs it.
    """
    import safetensors.torch

    from raycae.inference.codec import RGBAutoencoder
    from raycae.model.architecture import build_architecture
    from raycae.model.autoencoder import Autoencoder

    weights = {name: value.contiguous() for name, value in codec.network.state_dict().items()}
    content = safetensors.torch.save(weights, {"raycae": codec.config.to_json()})
    restored = Autoencoder(build_architecture(codec.config))
    restored.load_state_dict(safetensors.torch.load(content))
    return content, RGBAutoencoder(restored.eval(), codec.task)


def export_program(codec: Codec) -> Any:
    """Make a `torch.export` program for any number of images of any accepted size.

    Args:
        codec: The model.

    Returns:
        The program.
    """
    import torch
    from torch.export import Dim

    rgb, labels = iterate_photographs(codec)[-1]
    rgb = rgb.contiguous()  # The program accepts only the layout of its example.
    # pt2 warns of weights in channels-last order.
    codec.rgb_network.to(memory_format=torch.contiguous_format)
    sizes: dict[int, Any] = {0: Dim("N")}
    if codec.stride:
        for axis, side in ((2, "height"), (3, "width")):
            sizes[axis] = codec.stride * Dim(side) if codec.stride > 1 else Dim(side)
    inputs = (rgb,) if labels is None else (rgb, labels)
    shapes = (sizes,) if labels is None else (sizes, {0: sizes[0]})
    with torch.no_grad():
        return torch.export.export(codec.rgb_network, inputs, dynamic_shapes=shapes)


def iterate_photographs(codec: Codec) -> list[tuple[Tensor, Tensor | None]]:
    """Cut photographs into batches for the check.

    Args:
        codec: The model.

    Returns:
        Batches of RGB, float (N, 3, H, W) in [0, 1], and labels: one of the trained size, and one
        of another size that is not square if the network accepts it.
    """
    import torch

    size, stride = codec.config.image_size, codec.stride
    batches = [crop_photographs(size)]
    if stride:
        batches.append(crop_photographs(4 * stride)[:, :, :, : 3 * stride])
    else:
        batches.append(batches[0][: N_IMAGES // 2])
    classes = codec.config.classes
    return [(rgb, torch.arange(len(rgb)) % classes if classes else None) for rgb in batches]


def crop_photographs(size: int) -> Tensor:
    """Cut square crops from the photographs of the `photos` source.

    Args:
        size: Side of the crops in pixels.

    Returns:
        RGB, float (N_IMAGES, 3, size, size) in [0, 1].
    """
    import torch

    images = data.load_test("photos", image_size=size)
    spread = np.linspace(0, len(images) - 1, N_IMAGES).astype(int)
    return torch.from_numpy(images[spread]).permute(0, 3, 1, 2) / 255
