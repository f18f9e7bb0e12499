"""Configurations to layers to networks: shapes, counts, and that everything builds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from raycae.config import Config, parse_config, resolve
from raycae.errors import InputError
from raycae.model.architecture import PCA_LIMIT, Architecture, Infeasible, build_architecture
from raycae.model.autoencoder import Autoencoder, ConvBlock, UpsampledConv, build_network
from raycae.model.weights import encode_weights, load_model
from raycae.study.artifacts import write_model
from raycae.training import device, trainer
from raycae.training.fused import FusedTrainings
from raycae.training.trainer import Diverged, Training


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Maps this small are not worth handing from one core to another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


LINEAR_CODE = {
    "depth": 1,
    "channels": 16,
    "kernel": 4,
    "factor": 4,
    "padding": "none",
    "downsample": "stride",
    "latent_channels": 0,
    "upsample": "transposed",
    "activation": "none",
    "output": "linear",
}


def test_base_model_is_the_reports() -> None:
    """Oracle: 4,911 parameters and latent size 1024, as the course report computes."""
    net = build_architecture(resolve({}))
    assert (net.n_params, net.latent_size) == (4911, 1024)
    assert str(net) == (
        "conv 3-8 k3, max-pool 2, conv 8-12 k3, max-pool 2, conv 12-16 k3 | "
        "nearest 8→16, conv 16-12 k3, nearest 16→32, conv 12-3 k3"
    )


def test_linear_code_is_linear() -> None:
    """Oracle: superposition. f(a) - f(0) is additive for a network without activations."""
    net = build_network(build_architecture(resolve(LINEAR_CODE)), seed=0).eval()
    a, b = torch.rand(2, 1, 3, 32, 32).unbind()
    zero = net(torch.zeros_like(a))
    assert torch.allclose(net(a + b) - zero, (net(a) - zero) + (net(b) - zero), atol=1e-5)


def per_stage(entry: st.SearchStrategy[Any], depth: int) -> st.SearchStrategy[Any]:
    """One value for all stages, or a list with one entry per stage; now and then one too many."""
    length = st.sampled_from([depth] * 9 + [depth + 1])
    return entry | length.flatmap(lambda n: st.lists(entry, min_size=n, max_size=n))


def setting_strategies(depth: int) -> dict[str, st.SearchStrategy[Any]]:
    """For every setting what it may be, and a little beyond: sizes below 8 are refused."""
    width = st.integers(1, 12) | st.sampled_from([1, 40, 4096])
    kernel = st.integers(2, 7)
    return {
        "task": st.sampled_from(["reconstruct", "colourise"]),
        "image_size": st.sampled_from([8, 16, 32, 64]) | st.integers(4, 96),
        "gammas": st.floats(0.01, 100) | st.lists(st.floats(0.01, 100), min_size=1, max_size=16),
        "classes": st.sampled_from([0, 1, 3, 1000]),
        "depth": st.just(depth),
        "channels": per_stage(width, depth),
        "kernel": per_stage(kernel, depth),
        "padding": per_stage(st.sampled_from(["same", "none"]), depth),
        "convs": per_stage(st.integers(1, 4), depth),
        "downsample": per_stage(st.sampled_from(["max", "average", "stride", "none"]), depth),
        "factor": per_stage(st.sampled_from([2, 4]), depth),
        "latent_channels": st.integers(0, 12) | st.sampled_from([0, 4096]),
        "latent_kernel": kernel,
        "latent_convs": st.integers(1, 4),
        "decoder_channels": per_stage(width | st.lists(width, max_size=4), depth),
        "decoder_kernel": per_stage(kernel, depth),
        "decoder_convs": per_stage(st.integers(1, 4), depth),
        "decoder_kind": per_stage(st.sampled_from(["conv", "transposed"]), depth),
        "upsample": st.sampled_from(["nearest", "bilinear", "transposed", "pixel_shuffle"]),
        "activation": st.sampled_from(["relu", "leaky_relu", "silu", "gelu", "none"]),
        "norm": st.sampled_from(["none", "batch"]),
        "residual": st.booleans(),
        "output": st.sampled_from(["sigmoid", "linear", "leaky_relu"]),
        "linear_path": st.sampled_from(["none", "random", "pca"]),
        "refine": st.sampled_from([0, 0, 1, 5, 4096]),
        "refine_convs": st.integers(2, 8),
        "optimizer": st.sampled_from(["adam", "adamw", "rmsprop", "sgd"]),
        "lr": st.floats(0, 10, exclude_min=True) | st.sampled_from([1e-3, 1e-2]),
        "weight_decay": st.floats(0, 10),
        "momentum": st.floats(0, 1, exclude_max=True),
        "batch_size": st.sampled_from([1, 2, 3, 16, 512]),
        "schedule": st.sampled_from(["constant", "cosine"]),
        "averaging": st.floats(0, 1, exclude_max=True),
        "flips": st.sampled_from(["none", "horizontal", "both"]),
        "precision": st.sampled_from(["float32", "tf32", "bf16"]),
    }


@st.composite
def settings_of_any_kind(draw: st.DrawFn) -> dict[str, Any]:
    """Some settings of `Config`, drawn over all that they may be."""
    strategies = setting_strategies(draw(st.integers(1, 4)))
    assert strategies.keys() == Config.model_fields.keys()
    usual = {"task", "depth", "channels", "downsample", "norm", "output", "linear_path", "upsample"}
    return draw(
        st.fixed_dictionaries(
            {name: strategies[name] for name in strategies if name in usual},
            optional={name: strategies[name] for name in strategies if name not in usual},
        )
    )


def resolved(settings_: dict[str, Any]) -> Config:
    """The configuration of these settings. Where they are refused the message has to name one."""
    try:
        return resolve(settings_)
    except InputError as error:
        message = str(error)
    named, _, why = message.partition(": ")
    assert named.partition(".")[0] in Config.model_fields
    assert why
    reject()


def configs() -> st.SearchStrategy[Config]:
    return settings_of_any_kind().map(resolved)


REPORTED = {
    "depth": 3,
    "channels": 8,
    "kernel": 5,
    "padding": ["same", "same", "none"],
    "downsample": "stride",
    "upsample": "pixel_shuffle",
}
"""A user's configuration that crashed: a pixel shuffle right after a resize."""

ONE_VALUE = {"norm": "batch", "image_size": 8, "depth": 3, "channels": 4, "convs": 2}
"""Batch norm on a latent of 1 x 1 pixels: one value per channel where a minibatch is one image."""


def least_size(config: Config) -> float:
    """The height that the plainest arithmetic leaves of a picture, below 1 where it vanishes."""
    size, least = float(config.image_size), float(config.image_size)
    for i in range(config.depth):
        down = config.factor[i] if config.downsample[i] != "none" else 1
        lost = config.kernel[i] - 1 if config.padding[i] == "none" else 0
        least = min(least, (size - config.convs[i] * lost) / down)
        size = least // 1
    return least


def linear_path_fits(config: Config, latent: tuple[int, int, int]) -> bool:
    side, rest = divmod(config.image_size, latent[1])
    axes = config.in_channels * side**2
    return config.linear_path == "none" or (
        rest == 0 and (config.linear_path == "random" or axes <= PCA_LIMIT)
    )


def feasible(config: Config) -> Architecture:
    """The architecture. Only a vanished feature map may be refused, and a linear path whose blocks
    do not tile the picture or are too large for their axes."""
    try:
        without = build_architecture(config.model_copy(update={"linear_path": "none"}))
    except Infeasible:
        assert least_size(config) < 1
        reject()
    if not linear_path_fits(config, without.latent_shape):
        with pytest.raises(Infeasible, match="linear path: "):
            build_architecture(config)
        reject()
    return build_architecture(config)


def is_small(net: Architecture) -> bool:
    """Whether a step takes milliseconds; the ranges reach networks of gigabytes."""
    return net.n_params < 3e5 and net.flops < 2e7


def in_two_steps(self: UpsampledConv, x: Tensor) -> Tensor:
    """Nearest upsampling, then torch's own convolution."""
    return ConvBlock.forward(self, F.interpolate(x, scale_factor=self.factor))


def check_network(config: Config) -> None:
    """Build, count, run forward and backward and take one step.

    Oracle: torch itself. Shapes and parameters of the module, the FLOPs that its counter counts
    (with upsampling and convolution apart, for at once they take fewer), a gradient for every
    parameter. Networks of gigabytes are counted on the meta device alone.
    """
    net = feasible(config)
    small = is_small(net)
    with torch.device("cpu" if small else "meta"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Autoencoder(net)
        shape = (3, config.in_channels, config.image_size, config.image_size)
        x = torch.rand(shape) if small else torch.zeros(shape)
    assert sum(p.numel() for p in module.parameters()) == net.n_params
    module.eval()
    with pytest.MonkeyPatch.context() as patch, FlopCounterMode(display=False) as counter:
        patch.setattr(UpsampledConv, "forward", in_two_steps)
        z = module.encode(x)
        x_hat = module.decode(z)
    assert tuple(z.shape[1:]) == net.latent_shape
    assert tuple(x_hat.shape) == (3, config.out_channels, *shape[2:])
    assert counter.get_total_flops() == 3 * net.flops
    if not small:
        return
    assert torch.allclose(module(x), x_hat, rtol=1e-3, atol=1e-4)
    module.train()
    steps = trainer.make_optimizer(module, config)
    for n in (3, 1):  # A last minibatch may hold a single image.
        steps.zero_grad()
        output = device.run_forward(module, x[:n], config)
        assert tuple(output.shape) == (n, *x_hat.shape[1:])
        F.mse_loss(output, torch.rand_like(output)).backward()
        assert all(p.grad is not None for p in module.parameters())
        steps.step()


def check_training(config: Config) -> None:
    """Train an epoch alone and an epoch of two as one.

    Oracle: both run, unless they diverge, and with SGD at a small learning rate two equal trials
    fused end where one ends alone.
    """
    net = feasible(config)
    assume(is_small(net) and (config.linear_path != "pca" or net.linear[0].kernel <= 16))
    draw = np.random.default_rng(0)
    size = (config.image_size, config.image_size, 3)
    labels = draw.integers(0, config.classes, 17) if config.classes else None
    pictures = device.put_on_device(
        draw.integers(0, 256, (17, *size), dtype=np.uint8), torch.device("cpu"), labels
    )
    one, *pair = (Training(config, pictures, pictures, epochs=1, seed=3) for _ in range(3))
    try:
        alone = one.run_epoch()
    except Diverged:
        return
    assert -1 <= one.val_ssim() <= 1
    together = FusedTrainings(pair).run_epoch()
    # Where a gradient is 0 but for rounding, the others divide by its size and take a full step.
    plain = config.optimizer == "sgd" and config.precision == "float32"
    if plain and config.lr <= 1e-2:
        for member in together:
            assert not isinstance(member, Diverged)
            assert member["val_mse"] == pytest.approx(alone["val_mse"], rel=1e-2)


TOO_SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=TOO_SLOW)
@given(configs())
@example(resolve(REPORTED))
@example(resolve(ONE_VALUE))
@example(resolve(ONE_VALUE | {"batch_size": 1}))
def test_every_configuration_is_what_it_says(config: Config) -> None:
    """Oracle: `check_network`'s."""
    check_network(config)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=TOO_SLOW)
@given(configs())
@example(resolve(REPORTED))
@example(resolve(ONE_VALUE))
@example(resolve(ONE_VALUE | {"batch_size": 1}))
def test_every_configuration_trains(config: Config) -> None:
    """Oracle: `check_training`'s."""
    check_training(config)


@pytest.mark.long
@pytest.mark.timeout(7200)
@settings(max_examples=4000, deadline=None, suppress_health_check=TOO_SLOW)
@given(configs())
def test_many_configurations_are_what_they_say(config: Config) -> None:
    """Oracle: `check_network`'s."""
    check_network(config)


@pytest.mark.long
@pytest.mark.timeout(7200)
@settings(max_examples=1000, deadline=None, suppress_health_check=TOO_SLOW)
@given(configs())
def test_many_configurations_train(config: Config) -> None:
    """Oracle: `check_training`'s."""
    check_training(config)


@settings(max_examples=40, deadline=None)
@given(configs())
def test_config_survives_json(config: Config) -> None:
    """Oracle: round trip; the column `config` gives back the same network."""
    assert Config.model_validate_json(config.to_json()) == config
    assert resolve(config.model_dump()) == config


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 7),
    st.sampled_from([2, 4]),
    st.integers(4, 6),
    st.sampled_from(["none", "batch"]),
)
def test_upsampling_and_convolution_at_once(kernel: int, factor: int, size: int, norm: str) -> None:
    """Oracle: torch's own nearest upsampling and convolution, one after the other: the same
    output and the same gradients but for rounding."""
    settings_ = {"depth": 1, "channels": 3, "kernel": kernel, "factor": factor, "norm": norm}
    net = build_architecture(
        resolve({**settings_, "image_size": size * factor, "decoder_convs": 2})
    )
    _, joined, _ = build_network(net, seed=0).double().decoder
    assert isinstance(joined, UpsampledConv)
    z = torch.rand(2, 16, size, size, dtype=torch.float64)
    plain = ConvBlock.forward(joined, torch.nn.functional.interpolate(z, scale_factor=factor))
    at_once = joined(z)
    assert torch.allclose(at_once, plain, atol=1e-12)
    weight = joined.conv.weight
    loss = torch.rand(plain.shape, dtype=torch.float64)
    expected = torch.autograd.grad((plain * loss).sum(), weight, retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad((at_once * loss).sum(), weight)[0], expected)


def test_hash_is_of_the_network() -> None:
    """Oracle: two spellings of one network agree, training settings do not count, and any change
    of layers, activation or output shows."""
    base = build_architecture(resolve({})).hash
    same = {"channels": [8, 12], "kernel": [3, 3], "decoder_channels": [12, 5], "lr": 0.1}
    assert build_architecture(resolve(same)).hash == base
    for change in (
        {"kernel": 5},
        {"activation": "relu"},
        {"output": "linear"},
        {"downsample": "stride"},
        {"downsample": "average"},
        {"norm": "batch"},
    ):
        assert build_architecture(resolve(change)).hash != base
    linear = {"output": "linear", "linear_path": "random"}
    hashes = [
        build_architecture(resolve(c)).hash for c in ({"refine": 3}, {"output": "linear"}, linear)
    ]
    hashes.append(build_architecture(resolve({**linear, "refine": 3})).hash)
    hashes.append(build_architecture(resolve({**linear, "refine": 3, "refine_convs": 2})).hash)
    assert len({base, *hashes}) == 6
    assert build_architecture(resolve({**linear, "linear_path": "pca"})).hash == hashes[2]


def test_hash_outlives_new_settings() -> None:
    """Oracle: what raycae wrote into tables before there were linear paths and refinement."""
    other = {"residual": True, "norm": "batch", "convs": 2, "upsample": "pixel_shuffle"}
    assert build_architecture(resolve({})).hash == "e06d7e9d142a19b4"
    assert build_architecture(resolve({**other, "output": "linear"})).hash == "d8f8b5fb7f99c1c0"


def test_configuration_of_an_older_study() -> None:
    """Oracle: it said nothing of what did not exist, which is what the defaults mean."""
    new = {"linear_path", "refine", "refine_convs", "schedule", "averaging", "flips", "precision"}
    older = resolve({"lr": 0.01}).model_dump_json(exclude=new)
    assert Config.model_validate_json(older) == parse_config(older) == resolve({"lr": 0.01})
    rounded = resolve({"precision": "bf16"})
    assert Config.model_validate_json(rounded.to_json()) == rounded


def test_linear_path_and_refinement_by_hand() -> None:
    """Oracle: arithmetic. 4 x 4 blocks of 48 numbers to 16 and back, a bias for each; 3 x 3
    convolutions 3-8-8-3."""
    settings_ = {"depth": 1, "channels": 1, "factor": 4, "output": "linear"}
    plain = build_architecture(resolve(settings_)).n_params
    linear = build_architecture(resolve({**settings_, "linear_path": "random"}))
    assert linear.latent_shape == (16, 8, 8)
    assert linear.n_params - plain == 48 * 16 + 16 + 16 * 48 + 48
    refined = build_architecture(resolve({**settings_, "linear_path": "random", "refine": 8}))
    assert refined.n_params - linear.n_params == 27 * 8 + 8 + 72 * 8 + 8 + 72 * 3 + 3
    assert str(refined) == (
        "conv 3-1 k3, max-pool 4, conv 1-16 k3 + linear conv 3-16 k4 s4 | "
        "nearest 8→32, conv 16-3 k3 + linear conv 16-3 k1 shuffle 4 "
        "+ refine conv 3-8 k3, conv 8-8 k3, conv 8-3 k3"
    )


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"image_size": 31}, "a latent of 7 x 7 does not tile 31 x 31 pixels"),
        (
            {"image_size": 64, "depth": 3, "factor": 4},
            "PCA is limited to blocks of 6,000 numbers; this configuration needs blocks of 12,288",
        ),
    ],
)
def test_linear_path_that_does_not_fit(settings_: dict[str, Any], message: str) -> None:
    """Oracle: by hand; the message has both numbers that do not go together."""
    with pytest.raises(Infeasible, match=message):
        build_architecture(resolve({"linear_path": "pca", "output": "linear", **settings_}))


def test_vanished_feature_map_is_refused() -> None:
    """Oracle: by hand, 32 / 4 / 4 / 4 leaves nothing; the message names the stage."""
    with pytest.raises(
        Infeasible, match="stage 3: max-pool 4 needs at least 4 x 4 pixels; its input has 2 x 2"
    ):
        build_architecture(resolve({"depth": 3, "channels": 4, "factor": 4}))
    with pytest.raises(Infeasible, match="kernel 7 without padding"):
        build_architecture(resolve({"depth": 3, "channels": 4, "kernel": 7, "padding": "none"}))


def test_weights_depend_on_the_seed_alone() -> None:
    """Oracle: equal seeds give equal weights whatever was drawn before, and the global generator
    is where it was."""
    net = build_architecture(resolve({}))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_network(net, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = build_network(net, seed=1), build_network(net, seed=2)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )


def test_saved_model_comes_back(tmp_path: Any) -> None:
    """Oracle: the same output for the same input, bit for bit; a folder without weights is refused
    by name."""
    config = resolve({"norm": "batch"})
    network = build_network(build_architecture(config), seed=3).eval()
    network = network.to(memory_format=torch.channels_last)
    weights = encode_weights(network.state_dict())
    write_model(tmp_path / "7", weights, config.model_dump(mode="json"), trial_number=7)
    loaded, loaded_config = load_model(tmp_path / "7")
    x = torch.rand(4, 3, 32, 32).to(memory_format=torch.channels_last)
    assert loaded_config == config
    assert torch.equal(loaded(x), network(x))
    damaged = bytearray(weights)
    damaged[-1] ^= 1
    (tmp_path / "7" / "model.safetensors").write_bytes(damaged)
    with pytest.raises(InputError, match=r"model\.safetensors does not match its checksum"):
        load_model(tmp_path / "7")
    (tmp_path / "7" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        load_model(tmp_path / "7")


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"kernel": 9}, "kernel.0: 9 is not allowed; input should be less than or equal to 7"),
        ({"kernal": 3}, "kernal: unknown key. Did you mean kernel?"),
        ({"downsample": "maxx"}, "'maxx' is not allowed; allowed: 'max', 'average', 'stride'"),
        ({"channels": [8, 12, 16], "depth": 2}, "has 3 entries"),
        ({"batch_size": 0}, "batch_size: 0 is not allowed"),
        ({"lr": float("nan")}, "lr: nan is not allowed"),
        ({"decoder_channels": [[8, 9], 3]}, "stage 1 lists 2 numbers but has 1 convolution"),
        ({"gammas": []}, "gammas"),
        (
            {"linear_path": "pca"},
            "linear_path: 'pca' is not allowed with output 'sigmoid'; allowed",
        ),
        (
            {"linear_path": "pca", "output": "linear", "task": "colourise"},
            "linear_path: 'pca' is not allowed with task 'colourise'",
        ),
        ({"refine_convs": 1}, "refine_convs: 1 is not allowed"),
        ({"averaging": 1.0}, "averaging: 1.0 is not allowed"),
        ({"schedule": "step"}, "schedule: 'step' is not allowed; allowed: 'constant' or 'cosine'"),
    ],
)
def test_wrong_settings_are_named(settings_: dict[str, Any], message: str) -> None:
    """Oracle: the message names the setting, the value and what is allowed."""
    with pytest.raises(InputError) as caught:
        resolve(settings_)
    assert message in str(caught.value)
