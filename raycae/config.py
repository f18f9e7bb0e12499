"""Every setting of one trial: its name, what it may be, and what it is when nobody says.

The defaults are the base model of the source report (4,911 parameters, latent size 1024, Adam
0.001, batch 16), so a named point of a search space only says what it changes. `resolve` turns a
handful of settings into a `Config` that leaves nothing open: one entry per stage, the decoder
spelled out. Plain Python: neither torch nor Ray.
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


def as_tuple(value: Any) -> Any:
    """One value stands for a list of one: `kernel: 3` is `kernel: [3]`."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class OneOrListSchema:
    """Tells editors, by the JSON Schema, of the short way to write a list of one."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        of_list = handler(core_schema)
        return {"anyOf": [of_list["items"], of_list]}


def _require_number(kind: str, example: str) -> BeforeValidator:
    """Refuse text and booleans where a number is needed; pydantic alone would convert them, and
    take `1_000` or `yes` for what YAML does not."""

    def require(value: Any) -> Any:
        if isinstance(value, str | bytes | bool):
            text = ", not text" if isinstance(value, str) else ""
            raise ValueError(
                f"{format_value(value)} is not allowed; "
                f"it has to be {kind}, a number such as {example}{text}"
            )
        return value

    return BeforeValidator(require)


def _require_boolean(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError(f"{format_value(value)} is not allowed; it has to be bool: true or false")
    return value


IsInt = _require_number("int", "16")
IsFloat = _require_number("float", "0.5 or 1e-4")
IsBool = BeforeValidator(_require_boolean)
"""For values that people write: text never stands for a number or a boolean. They come last in an
annotation, or the JSON Schema loses the bounds."""
Channels = Annotated[int, Field(ge=1, le=4096), IsInt]
Kernel = Annotated[int, Field(ge=2, le=7), IsInt]
Convs = Annotated[int, Field(ge=1, le=4), IsInt]
Gamma = Annotated[float, Field(ge=0.01, le=100), IsFloat]  # beyond, float32 loses the picture
Finite = Field(allow_inf_nan=False)
OneOrList = BeforeValidator(as_tuple), OneOrListSchema()
PerStage = Field(max_length=4), *OneOrList


class Config(BaseModel):
    """One trial, resolved. Settings marked *per stage* hold one entry for each of `depth` stages.

    Encoder stages count from the picture inwards, decoder stages from the latent outwards: decoder
    stage 1 undoes the last encoder stage. A decoder setting that is not given mirrors the encoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["reconstruct", "colourise"] = "reconstruct"
    image_size: Annotated[int, Field(ge=8, le=512), IsInt] = 32
    gammas: Annotated[tuple[Gamma, ...], Field(min_length=1, max_length=16), *OneOrList] = (
        0.1,
        0.5,
        1.5,
        3.0,
    )
    """Colourise: one input channel, luma ** gamma, for each. `[1]` is the plain grey picture."""
    classes: Annotated[int, Field(ge=0, le=1000), IsInt] = 0
    """Colourise: so many further input channels say what is in the picture: that of its class, from
    0 on, is 1 and the others 0. 0: nobody says."""

    depth: Annotated[int, Field(ge=1, le=4), IsInt] = 2
    channels: Annotated[tuple[Channels, ...], *PerStage] = (8, 12)
    kernel: Annotated[tuple[Kernel, ...], *PerStage] = (3,)
    padding: Annotated[tuple[Literal["same", "none"], ...], *PerStage] = ("same",)
    convs: Annotated[tuple[Convs, ...], *PerStage] = (1,)
    downsample: Annotated[tuple[Literal["max", "average", "stride", "none"], ...], *PerStage] = (
        "max",
    )
    """How a stage ends: a pooling layer, stride in its last convolution, or not at all."""
    factor: Annotated[tuple[Literal[2, 4], ...], *PerStage] = (2,)

    latent_channels: Annotated[int, Field(ge=0, le=4096), IsInt] = 16
    """Channels of the convolution that makes the latent; 0: the last stage's output is it."""
    latent_kernel: Kernel = 3
    latent_convs: Convs = 1

    decoder_channels: Annotated[
        tuple[Annotated[tuple[Channels, ...], *PerStage], ...], *PerStage
    ] = ((12,), ())
    """Per stage one number for every convolution, or a list; the last one makes the picture and
    has no number of its own."""
    decoder_kernel: Annotated[tuple[Kernel, ...], *PerStage] = (3,)
    decoder_convs: Annotated[tuple[Convs, ...], *PerStage] = (1,)
    decoder_kind: Annotated[tuple[Literal["conv", "transposed"], ...], *PerStage] = ("conv",)
    upsample: Literal["nearest", "bilinear", "transposed", "pixel_shuffle"] = "nearest"

    activation: Literal["relu", "leaky_relu", "silu", "gelu", "none"] = "leaky_relu"
    norm: Literal["none", "batch"] = "none"
    residual: Annotated[bool, IsBool] = False
    """Every convolution that keeps its shape adds its input to its output."""
    output: Literal["sigmoid", "linear", "leaky_relu"] = "sigmoid"

    linear_path: Literal["none", "random", "pca"] = "none"
    """One linear map each beside encoder and decoder, block of pixels to latent position and back,
    added to what they put out. `pca`: it begins as the principal axes of the training images'
    blocks, all else at zero, so that the network begins on the linear line of its size."""
    refine: Annotated[int, Field(ge=0, le=4096), IsInt] = 0
    """Channels of 3 x 3 convolutions that add a correction to the decoded picture; 0: none."""
    refine_convs: Annotated[int, Field(ge=2, le=8), IsInt] = 3

    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0, le=10), Finite, IsFloat] = 0.001
    weight_decay: Annotated[float, Field(ge=0, le=10), Finite, IsFloat] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1), IsFloat] = 0.0
    """SGD only."""
    batch_size: Annotated[int, Field(ge=1, le=512), IsInt] = 16
    schedule: Literal["constant", "cosine"] = "constant"
    """Cosine: the learning rate falls to 0 over the trial's planned epochs."""
    averaging: Annotated[float, Field(ge=0, lt=1), IsFloat] = 0.0
    """Share that a moving average of the weights keeps at each step; the average is what is
    measured and kept. 0: none."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """What training reckons in. Weights and their updates are float32 in any case, and so are the
    errors on validation and test images. `tf32`: products of numbers of ten bits, summed in
    float32, where the device knows how; elsewhere it is float32. `bf16`: values and gradients of
    seven bits (autocast)."""

    @property
    def in_channels(self) -> int:
        return 3 if self.task == "reconstruct" else len(self.gammas) + self.classes

    @property
    def out_channels(self) -> int:
        return 3 if self.task == "reconstruct" else 2

    def to_json(self) -> str:
        """Compact, keys in the order of the class; `Config.model_validate_json` reads it back."""
        return self.model_dump_json()


ENCODER_STAGE_KEYS = ("channels", "kernel", "padding", "convs", "downsample", "factor")
DECODER_STAGE_KEYS = ("decoder_channels", "decoder_kernel", "decoder_convs", "decoder_kind")
TRAINING_KEYS = (
    *("optimizer", "lr", "weight_decay", "momentum", "batch_size"),
    *("schedule", "averaging", "precision"),
)
"""How a network is trained."""
UNSEEN_KEYS = ("task", "gammas", "classes", "linear_path")
"""What else its layers do not show; of `linear_path`, where it begins."""
STAGE_KEYS = frozenset(ENCODER_STAGE_KEYS + DECODER_STAGE_KEYS)
"""Settings that hold one entry per stage; `channels_1` … `channels_4` are its entries."""
Settings: type[BaseModel] = create_model(
    "Settings",
    __config__=ConfigDict(extra="forbid", frozen=True),
    __doc__="Some settings of a trial; those not given keep their default.",
    **{  # type: ignore[call-overload]
        name: (hint, None)
        for name, hint in get_type_hints(Config, include_extras=True).items()
        if name in Config.model_fields
    },
)
"""The same settings, all optional: what `fixed` and `points` of a search space may hold."""


def list_given(settings: BaseModel) -> dict[str, Any]:
    """The settings that somebody wrote down, without the untouched defaults."""
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def resolve(settings: Mapping[str, Any]) -> Config:
    """Complete `settings` into a `Config`.

    One entry for a per-stage setting serves every stage. Without `depth` the longest list says how
    many stages there are (2 if there is none). Raises `InputError` naming the setting.
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
        values["gammas"] = (
            1.0,
        )  # means nothing here; one spelling, so that equal trials are equal
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
        text: NAME=VALUE. The value means what it would in a space file; if not YAML, it is text.

    Returns:
        The setting's name and its value, not checked yet.

    Raises:
        InputError: There is no name or no equals sign.
    """
    import yaml  # Training does without it.

    from raycae.yaml_core import load_yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--set {text}: write NAME=VALUE, e.g. --set lr=0.001")
    try:
        return name, load_yaml(value)
    except (yaml.YAMLError, RecursionError):
        return name, value


def parse_config(text: str) -> Config:
    """What `Config.to_json` wrote, checked anew: files come from elsewhere, too. Raises
    `InputError` naming the setting."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise InputError(
            f"{format_value(settings)} is no configuration; it has to be a JSON object"
        )
    return resolve(settings)


def explain_validation_error(
    error: ValidationError, where: str = "", keys: Iterable[str] = ()
) -> str:
    """One line for the first fault that pydantic found: where, which key, which value, what goes.

    `where` is put in front (a file's name); `keys` are those allowed where a key is unknown.
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
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{prefix}: unknown key; {hint}allowed: {', '.join(allowed)}"
    if fault["type"] == "missing":
        return f"{prefix}: missing; it has to be there"
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
    """A value as Python writes it; beginning and end of a long one."""
    try:
        text = repr(value)
    except RecursionError:
        return f"this {type(value).__name__} without end"
    return text if len(text) <= 200 else f"{text[:150]} … {text[-50:]}"


def is_tag(fault: Mapping[str, Any], i: int) -> bool:
    """Pydantic puts the kind of a parameter into the path of its faults; no file has it there."""
    loc = fault["loc"]
    return i == 2 and loc[0] == "params" and loc[2] in ("float", "int", "categorical")


def validate_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return list_given(Settings(**settings))
    except ValidationError as error:
        raise InputError(explain_validation_error(error, keys=Config.model_fields)) from None


def get_depth(values: Mapping[str, Any]) -> int:
    lists = [len(values[name]) for name in STAGE_KEYS if len(values.get(name, ())) > 1]
    return max(lists, default=2)


def require_one_per_stage(name: str, entries: tuple[Any, ...], depth: int) -> tuple[Any, ...]:
    if len(entries) == 1:
        return entries * depth
    if len(entries) != depth:
        raise InputError(
            f"{name}: {list(entries)} has {len(entries)} entries; "
            f"give one for all stages or one for each of the {depth} stages"
        )
    return entries


def check_linear_path(values: Mapping[str, Any]) -> None:
    path, output = values.get("linear_path", "none"), values.get("output", "sigmoid")
    if path != "none" and output != "linear":
        raise InputError(
            f"linear_path: {path!r} is not allowed with output {output!r}; "
            "allowed: 'none', or output 'linear'"
        )
    if path == "pca" and values.get("task") == "colourise":
        raise InputError(
            "linear_path: 'pca' is not allowed with task 'colourise', whose pictures to encode are "
            "not those to decode; allowed: 'none' or 'random'"
        )


def expand_decoder_channels(values: Mapping[str, Any], depth: int) -> tuple[tuple[int, ...], ...]:
    """Spelled out: for each decoder stage the channels of each of its convolutions."""
    mirror = tuple((c,) for c in values["channels"][::-1])
    stages = require_one_per_stage(
        "decoder_channels", values.get("decoder_channels", mirror), depth
    )
    spelled = []
    for number, (entries, convs) in enumerate(zip(stages, values["decoder_convs"], strict=True), 1):
        own = convs - 1 if number == depth else convs  # the very last one makes the picture
        if len(entries) == 1:
            entries = entries * own
        if len(entries) != own:
            raise InputError(
                f"decoder_channels: stage {number} has {len(entries)} numbers for "
                f"{own} convolutions of its own; give one number for all or one for each"
            )
        spelled.append(tuple(entries))
    return tuple(spelled)
