"""Every setting of a trial: its name, its allowed values and its default.

The defaults are the base model of the course report (4,911 parameters, latent size 1024, Adam
0.001, batch 16), so a named point of a search space only contains what it changes. `resolve`
completes some settings to a `Config` that leaves nothing open: one entry per stage, the decoder
written out. Plain Python: neither torch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    create_model,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from raycae.errors import InputError
from raycae.formatting import format_count, join_words


def as_tuple(value: Any) -> Any:
    """Return a list as a tuple, and any other value as a tuple of one: `kernel: 3`.

    Args:
        value: Value of a setting that has one entry per stage.
    """
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class OneOrListSchema:
    """Adds to the JSON Schema that a list of one entry may be written as that entry."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        list_schema = handler(core_schema)
        return {"anyOf": [list_schema["items"], list_schema]}


def _require_number(kind: str, example: str) -> BeforeValidator:
    """Make a validator that refuses text and booleans where a number is needed.

    Pydantic alone would convert them, and accept `1_000` or `yes`, which are text in YAML.
    """

    def require(value: Any) -> Any:
        if isinstance(value, str | bytes | bool):
            text = "" if isinstance(value, bool) else "the text "
            raise ValueError(f"expected {kind} such as {example}, not {text}{format_value(value)}")
        return value

    return BeforeValidator(require)


def _require_boolean(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, not {format_value(value)}")
    return value


IsInt = _require_number("a whole number", "16")
IsFloat = _require_number("a number", "0.5 or 1e-4")
IsBool = BeforeValidator(_require_boolean)
"""Validators for values that people write: text is never a number or a boolean. They come last in
an annotation, or the JSON Schema loses the bounds."""
Channels = Annotated[int, Field(ge=1, le=4096), IsInt]
Kernel = Annotated[int, Field(ge=2, le=7), IsInt]
Convs = Annotated[int, Field(ge=1, le=4), IsInt]
Gamma = Annotated[float, Field(ge=0.01, le=100), IsFloat]  # Beyond, float32 loses the image.
Finite = Field(allow_inf_nan=False)
OneOrList = BeforeValidator(as_tuple), OneOrListSchema()
PerStage = Field(max_length=4), *OneOrList


class Config(BaseModel):
    """The settings of one trial. Those of type `PerStage` have one entry per stage.

    Encoder stages are counted from the image inwards, decoder stages from the latent outwards:
    decoder stage 1 undoes the last encoder stage. Decoder settings mirror the encoder by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["reconstruct", "colourise"] = "reconstruct"
    """What the network does: reconstruct images, or predict the colours of grey ones."""
    image_size: Annotated[int, Field(ge=8, le=512), IsInt] = 32
    """Side of the images in pixels; others are cropped and resized to it."""
    gammas: Annotated[tuple[Gamma, ...], Field(min_length=1, max_length=16), *OneOrList] = (
        0.1,
        0.5,
        1.5,
        3.0,
    )
    """Colourise: one input channel, luma ** gamma, for each entry. `[1]` is the grey image."""
    classes: Annotated[int, Field(ge=0, le=1000), IsInt] = 0
    """Colourise: number of further input channels that encode the class of the image, one-hot, with
    classes counted from 0. 0 means no class input."""

    depth: Annotated[int, Field(ge=1, le=4), IsInt] = 2
    """Number of stages of the encoder, and of the decoder; by default the length of the longest
    list with one entry per stage, or 2 without such lists."""
    channels: Annotated[tuple[Channels, ...], *PerStage] = (8, 12)
    """Output channels of the convolutions of an encoder stage."""
    kernel: Annotated[tuple[Kernel, ...], *PerStage] = (3,)
    """Side of the kernels of an encoder stage in pixels."""
    padding: Annotated[tuple[Literal["same", "none"], ...], *PerStage] = ("same",)
    """Zeros around the input of an encoder convolution: as many as keep the size, or none."""
    convs: Annotated[tuple[Convs, ...], *PerStage] = (1,)
    """Number of convolutions of an encoder stage."""
    downsample: Annotated[tuple[Literal["max", "average", "stride", "none"], ...], *PerStage] = (
        "max",
    )
    """How a stage reduces the size: a pooling layer, or a stride in its last convolution. `none`
    keeps the size."""
    factor: Annotated[tuple[Literal[2, 4], ...], *PerStage] = (2,)
    """By how much a stage divides height and width."""

    latent_channels: Annotated[int, Field(ge=0, le=4096), IsInt] = 16
    """Channels of the convolution that makes the latent; 0: the last stage makes it."""
    latent_kernel: Kernel = 3
    """Side of the kernels of that convolution; by default that of the last encoder stage."""
    latent_convs: Convs = 1
    """Number of these convolutions."""

    decoder_channels: Annotated[
        tuple[Annotated[tuple[Channels, ...], *PerStage], ...], *PerStage
    ] = ((12,), ())
    """Per stage, one number of channels for all its convolutions, or one for each; by default the
    `channels` of the encoder stages in reverse order. The last convolution of the last stage makes
    the image and is not listed."""
    decoder_kernel: Annotated[tuple[Kernel, ...], *PerStage] = (3,)
    """Side of the kernels of a decoder stage; by default that of its encoder stage."""
    decoder_convs: Annotated[tuple[Convs, ...], *PerStage] = (1,)
    """Number of convolutions of a decoder stage; by default that of its encoder stage."""
    decoder_kind: Annotated[tuple[Literal["conv", "transposed"], ...], *PerStage] = ("conv",)
    """Convolutions or transposed convolutions in a decoder stage."""
    upsample: Literal["nearest", "bilinear", "transposed", "pixel_shuffle"] = "nearest"
    """How a decoder stage enlarges its input: interpolation before its first convolution, a stride
    of a transposed one, or a pixel shuffle after it."""

    activation: Literal["relu", "leaky_relu", "silu", "gelu", "none"] = "leaky_relu"
    """Activation after every convolution except the last one of the network."""
    norm: Literal["none", "batch"] = "none"
    """Normalization between convolution and activation."""
    residual: Annotated[bool, IsBool] = False
    """Every convolution that keeps the shape adds its input to its output."""
    output: Literal["sigmoid", "linear", "leaky_relu"] = "sigmoid"
    """Activation at the output of the network."""

    linear_path: Literal["none", "random", "pca"] = "none"
    """A linear map parallel to the encoder, from a block of pixels to a latent position, and one
    parallel to the decoder; each is added to the output. `pca`: these maps start as the
    principal axes of the blocks of the training images, and the output of the other layers as
    zero, so that the network starts at the error of PCA with the same latent size."""
    refine: Annotated[int, Field(ge=0, le=4096), IsInt] = 0
    """Channels of 3 x 3 convolutions that add a correction to the decoded image; 0 for none."""
    refine_convs: Annotated[int, Field(ge=2, le=8), IsInt] = 3
    """Number of these convolutions."""

    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    """Optimizer of PyTorch."""
    lr: Annotated[float, Field(gt=0, le=10), Finite, IsFloat] = 0.001
    """Learning rate."""
    weight_decay: Annotated[float, Field(ge=0, le=10), Finite, IsFloat] = 0.0
    """Weight decay of the optimizer; decoupled for `adamw`, an L2 penalty for the others."""
    momentum: Annotated[float, Field(ge=0, lt=1), IsFloat] = 0.0
    """Momentum; SGD only."""
    batch_size: Annotated[int, Field(ge=1, le=512), IsInt] = 16
    """Number of images per minibatch."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate changes. `cosine`: it falls to 0 over the planned epochs of the
    trial."""
    averaging: Annotated[float, Field(ge=0, lt=1), IsFloat] = 0.0
    """Decay of the moving average of the weights at each step, such as 0.99. The averaged weights
    are evaluated and stored. 0 for no average."""
    flips: Literal["none", "horizontal", "both"] = "none"
    """Random flips of the training images, drawn for each image in each epoch: left and right, or
    also upside down. `linear_path: pca` then starts from the images and all their flipped
    copies."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Precision of the training step. Weights, their updates, and the errors on validation and
    test images are float32 in any case. `tf32`: products with ten bits of mantissa, summed in
    float32, on devices that have it; float32 elsewhere. `bf16`: activations and gradients with
    seven bits of mantissa (autocast)."""

    @property
    def in_channels(self) -> int:
        """Number of input channels of the network."""
        return 3 if self.task == "reconstruct" else len(self.gammas) + self.classes

    @property
    def out_channels(self) -> int:
        """Number of output channels of the network."""
        return 3 if self.task == "reconstruct" else 2

    def to_json(self) -> str:
        """Return compact JSON, keys in the order of the class, for `Config.model_validate_json`."""
        return self.model_dump_json()


ENCODER_STAGE_KEYS = ("channels", "kernel", "padding", "convs", "downsample", "factor")
DECODER_STAGE_KEYS = ("decoder_channels", "decoder_kernel", "decoder_convs", "decoder_kind")
TRAINING_KEYS = (
    *("optimizer", "lr", "weight_decay", "momentum", "batch_size"),
    *("schedule", "averaging", "flips", "precision"),
)
"""Settings that say how a network is trained."""
UNSEEN_KEYS = ("task", "gammas", "classes", "linear_path")
"""Other settings that the layers do not show; of `linear_path`, how it is initialised."""
STAGE_KEYS = frozenset(ENCODER_STAGE_KEYS + DECODER_STAGE_KEYS)
"""Settings with one entry per stage, which tables show as `channels_1` … `channels_4`."""
Settings: type[BaseModel] = create_model(
    "Settings",
    __config__=ConfigDict(extra="forbid", frozen=True),
    __doc__="Some settings of a trial; the others keep their defaults.",
    **{  # type: ignore[call-overload]
        name: (hint, None)
        for name, hint in get_type_hints(Config, include_extras=True).items()
        if name in Config.model_fields
    },
)
"""The settings of `Config`, all optional: what `fixed` and `points` of a space may contain."""


def list_given(settings: BaseModel) -> dict[str, Any]:
    """Return the settings that were given, without defaults.

    Args:
        settings: Some settings of a trial.
    """
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def resolve(settings: Mapping[str, Any]) -> Config:
    """Complete settings to a `Config`.

    A single entry of a per-stage setting is used for every stage. Without `depth`, the longest
    list determines the number of stages; without lists there are 2.

    Args:
        settings: Some settings of a trial.

    Raises:
        InputError: A setting is not allowed; the message names it.
    """
    values = {k: v for k, v in validate_config(settings).items() if v is not None}
    depth = values.setdefault("depth", get_depth(values))
    for name in ENCODER_STAGE_KEYS:
        default = (
            (8, 12, 12, 12)[:depth] if name == "channels" else Config.model_fields[name].default
        )
        values[name] = require_one_per_stage(name, values.get(name, default), depth)
    values.setdefault("latent_kernel", values["kernel"][-1])
    for name in ("decoder_kernel", "decoder_convs"):
        mirror = values[name.removeprefix("decoder_")][::-1]
        values[name] = require_one_per_stage(name, values.get(name, mirror), depth)
    values["decoder_kind"] = require_one_per_stage(
        "decoder_kind", values.get("decoder_kind", ("conv",)), depth
    )
    values["decoder_channels"] = expand_decoder_channels(values, depth)
    if values.get("task", "reconstruct") == "reconstruct":
        # They have no meaning here; one value makes equal trials compare equal.
        values["gammas"] = (1.0,)
        values["classes"] = 0
    if values.get("optimizer", "adam") != "sgd":
        values["momentum"] = 0.0
    if not values.get("refine"):
        values.pop("refine_convs", None)
    check_linear_path(values)
    return Config(**values)


def parse_setting(text: str) -> tuple[str, Any]:
    """Split `lr=0.001`, `channels=[8,12]` or `norm=batch`, as typed after `--set`.

    Args:
        text: NAME=VALUE. The value is read as in a space file; if it is not YAML, it is text.

    Returns:
        Name and value of the setting, not checked yet.

    Raises:
        InputError: There is no name or no equals sign.
    """
    import yaml  # Not needed for training.

    from raycae.yaml_core import load_yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--set {text}: write NAME=VALUE, e.g. --set lr=0.001")
    try:
        return name, load_yaml(value)
    except (yaml.YAMLError, RecursionError):
        return name, value


def parse_config(text: str) -> Config:
    """Read and check what `Config.to_json` wrote; the file may come from anywhere.

    Args:
        text: JSON text.

    Raises:
        InputError: It is not a configuration; the message names the setting.
    """
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{format_value(settings)} is not a configuration; expected a JSON object")
    return resolve(settings)


def explain_validation_error(
    error: ValidationError, where: str = "", keys: Iterable[str] = ()
) -> str:
    """Format the first fault that pydantic found as one line: key, value, what is allowed.

    Args:
        error: What pydantic found.
        where: What the message begins with, e.g. the name of a file.
        keys: The allowed keys, for an unknown key.
    """
    import difflib

    faults = error.errors(include_url=False)
    fault = faults[0]
    path = ".".join(str(part) for i, part in enumerate(fault["loc"]) if not is_tag(fault, i))
    prefix = f"{where}: {path}" if where else path
    value = format_value(fault["input"])
    if fault["type"] == "extra_forbidden":
        allowed = sorted(keys)
        close = difflib.get_close_matches(str(fault["loc"][-1]), allowed, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        remedy = f" Use {join_words(allowed, 'or')}." if allowed else ""
        return f"{prefix}: unknown key.{hint}{remedy}"
    if fault["type"] == "missing":
        return f"{prefix}: missing. This key is required."
    if fault["type"] == "value_error":
        return f"{prefix}: {fault['ctx']['error']!s}"
    if fault["type"] in ("union_tag_not_found", "union_tag_invalid"):
        given_type = fault["ctx"].get("tag", "nothing")
        return f"{prefix}.type: {given_type} is not allowed; allowed: float, int, categorical"
    if fault["type"] == "literal_error":
        return f"{prefix}: {value} is not allowed; allowed: {fault['ctx']['expected']}"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{prefix}: {value} is not allowed; {message}"


def format_value(value: Any) -> str:
    """Format a value as Python writes it, the middle of a long one left out.

    Args:
        value: Anything.
    """
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= 200 else f"{text[:150]} … {text[-50:]}"


def is_tag(fault: Mapping[str, Any], i: int) -> bool:
    """Return whether a part of a fault's path is the type of a parameter, not a key of the file.

    Args:
        fault: A fault as pydantic describes it.
        i: Index into its path `loc`.
    """
    loc = fault["loc"]
    return i == 2 and loc[0] == "params" and loc[2] in ("float", "int", "categorical")


def validate_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check settings one by one, and convert them to their types.

    Args:
        settings: Some settings of a trial.

    Raises:
        InputError: A setting is unknown, or its value is not allowed.
    """
    try:
        return list_given(Settings(**settings))
    except ValidationError as error:
        raise InputError(explain_validation_error(error, keys=Config.model_fields)) from None


def get_depth(values: Mapping[str, Any]) -> int:
    """Return the number of stages that per-stage lists imply; 2 without such lists.

    Args:
        values: Checked settings.
    """
    lists = [len(values[name]) for name in STAGE_KEYS if len(values.get(name, ())) > 1]
    return max(lists, default=2)


def require_one_per_stage(name: str, entries: tuple[Any, ...], depth: int) -> tuple[Any, ...]:
    """Return one entry per stage; a single entry is repeated.

    Args:
        name: Name of the setting, for the message.
        entries: Entries of a per-stage setting.
        depth: Number of stages.

    Raises:
        InputError: There is neither one entry nor one per stage.
    """
    if len(entries) == 1:
        return entries * depth
    if len(entries) != depth:
        raise InputError(
            f"{name}: {list(entries)} has {len(entries)} entries; "
            f"give one for all stages or one for each of the {depth} stages"
        )
    return entries


def check_linear_path(values: Mapping[str, Any]) -> None:
    """Check that the linear path goes with the output and the task.

    Args:
        values: Checked settings.

    Raises:
        InputError: It does not.
    """
    path, output = values.get("linear_path", "none"), values.get("output", "sigmoid")
    if path != "none" and output != "linear":
        raise InputError(
            f"linear_path: {path!r} is not allowed with output {output!r}; "
            "allowed: 'none', or output 'linear'"
        )
    if path == "pca" and values.get("task") == "colourise":
        raise InputError(
            "linear_path: 'pca' is not allowed with task 'colourise', whose input and output "
            "differ; allowed: 'none' or 'random'"
        )


def expand_decoder_channels(values: Mapping[str, Any], depth: int) -> tuple[tuple[int, ...], ...]:
    """Write out the channels of every convolution of every decoder stage.

    Args:
        values: Checked settings, with `channels` and `decoder_convs` per stage.
        depth: Number of stages.

    Returns:
        For each decoder stage the channels of its convolutions, without the one that makes the
        image.

    Raises:
        InputError: The number of entries does not fit.
    """
    mirror = tuple((c,) for c in values["channels"][::-1])
    stages = require_one_per_stage(
        "decoder_channels", values.get("decoder_channels", mirror), depth
    )
    expanded = []
    for number, (entries, convs) in enumerate(zip(stages, values["decoder_convs"], strict=True), 1):
        n_convs = convs - 1 if number == depth else convs  # The last one makes the image.
        if len(entries) == 1:
            entries = entries * n_convs
        if len(entries) != n_convs:
            listed = format_count(len(entries), "number")
            needed = format_count(n_convs, "convolution")
            output = " before the output convolution" if number == depth else ""
            raise InputError(
                f"decoder_channels: stage {number} lists {listed} but has {needed}{output}. Give "
                "one number for all, or one for each."
            )
        expanded.append(tuple(entries))
    return tuple(expanded)
