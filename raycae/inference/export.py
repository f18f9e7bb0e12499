"""Encode a model in formats for other programs, checked against the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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
PARTS = ("whole", "encoder", "decoder")
"""Names of the parts of a model that can be exported."""
Inputs = tuple["Tensor", ...]
"""The inputs of a part: RGB, float (N, 3, H, W) in [0, 1], and labels if the model needs them. The
decoder has latents instead, float (N, C, h, w)."""
PartFunction = Callable[..., "Tensor"]
"""A function from `Inputs` to the output of a part."""


class Part(NamedTuple):
    """A part of a model as one module.

    Attributes:
        module: The module.
        input_names: Names of its inputs.
        output_name: Name of its output.
        batches: Inputs for the check: photographs, or their latents, of two sizes where the network
            accepts several.
        stride: The module accepts sides that are a multiple of this; None for one size alone.
    """

    module: Any
    input_names: tuple[str, ...]
    output_name: str
    batches: Sequence[Inputs]
    stride: int | None


def choose_part(codec: Codec, part: str, form: str) -> Part:
    """Make a part of a model.

    Args:
        codec: The model.
        part: One of `PARTS`.
        form: The format that it is encoded in, one of `FORMATS`.

    Returns:
        The part. The decoder returns RGB where the model reconstructs, and Cb and Cr where it
        colourises, in [0, 1].
    """
    import torch

    from raycae.inference.codec import LatentDecoder, RGBEncoder

    stride = codec.stride
    if form == "pt2" and stride == codec.config.image_size:
        stride = None  # torch.export keeps sides of 1 constant, such as those of this latent.
    found = iterate_photographs(codec, stride)
    batches = [(rgb,) if labels is None else (rgb, labels) for rgb, labels in found]
    pictures = ("rgb", "labels")[: len(batches[0])]
    if part == "whole":
        return Part(codec.rgb_network, pictures, "pictures", batches, stride)
    encoder = RGBEncoder(codec.network, codec.task).eval().requires_grad_(False)
    if part == "encoder":
        return Part(encoder, pictures, "latents", batches, stride)
    with torch.no_grad():
        latents = [(encoder(*batch),) for batch in batches]
    decoder = LatentDecoder(codec.network).eval().requires_grad_(False)
    output = "pictures" if codec.config.task == "reconstruct" else "colours"
    return Part(decoder, ("latents",), output, latents, 1 if stride else None)


def write_onnx(codec: Codec, part: Part) -> tuple[bytes, PartFunction]:
    """Encode a part of a model as ONNX.

    Args:
        codec: The model.
        part: The part.

    Returns:
        The content of the file, and a function that runs it.
    """
    import onnxruntime
    import torch

    program: Any = torch.onnx.export(
        export_program(codec, part),
        dynamo=True,
        verbose=False,
        input_names=list(part.input_names),
        output_names=[part.output_name],
    )
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run_session(*inputs: Tensor) -> Tensor:
        fed = {name: value.numpy() for name, value in zip(part.input_names, inputs, strict=True)}
        return torch.from_numpy(session.run([part.output_name], fed)[0])

    return content, run_session


def write_pt2(codec: Codec, part: Part) -> tuple[bytes, PartFunction]:
    """Encode a part of a model as a PyTorch program.

    Args:
        codec: The model.
        part: The part.

    Returns:
        The content of the file, and a function that runs it.
    """
    import io

    import torch

    buffer = io.BytesIO()
    torch.export.save(export_program(codec, part), buffer)
    buffer.seek(0)
    return buffer.getvalue(), torch.export.load(buffer).module()


def write_safetensors(codec: Codec, part: Part) -> tuple[bytes, PartFunction]:
    """Encode the weights of a model, with the configuration in the header.

    Args:
        codec: The model.
        part: The whole model; the weights of a part are not written alone.

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


def export_program(codec: Codec, part: Part) -> Any:
    """Make a `torch.export` program for any number of images of any accepted size.

    Args:
        codec: The model.
        part: The part of it.

    Returns:
        The program.
    """
    import torch
    from torch.export import Dim

    first, *others = part.batches[-1]
    first = first.contiguous()  # The program accepts only the layout of its example.
    # pt2 warns of weights in channels-last order.
    codec.rgb_network.to(memory_format=torch.contiguous_format)
    sizes: dict[int, Any] = {0: Dim("N")}
    if part.stride:
        for axis, side in ((2, "height"), (3, "width")):
            sizes[axis] = part.stride * Dim(side) if part.stride > 1 else Dim(side)
    shapes = (sizes, *({0: sizes[0]} for _ in others))
    with torch.no_grad():
        return torch.export.export(part.module, (first, *others), dynamic_shapes=shapes)


def iterate_photographs(codec: Codec, stride: int | None) -> list[tuple[Tensor, Tensor | None]]:
    """Cut photographs into batches for the check.

    Args:
        codec: The model.
        stride: The encoded model accepts sides that are a multiple of this; None for one size.

    Returns:
        Batches of RGB, float (N, 3, H, W) in [0, 1], and labels: one of the trained size, and one
        of another size that is not square if the encoded model accepts it.
    """
    import torch

    size = codec.config.image_size
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
