"""A trained model to call: kinds of pictures, sizes, latents; what is refused."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ImageOps
import pytest
import torch
from conftest import run_trial
from hypothesis import given, settings
from hypothesis import strategies as st
from models import FIXED, NETWORKS, SCALING, put_model
from PIL import Image

import raycae
from raycae import data
from raycae.config import resolve
from raycae.data.decoding import decode
from raycae.errors import InputError
from raycae.inference import codec, tiling
from raycae.inference.codec import Codec
from raycae.model import weights
from raycae.model.architecture import build_architecture
from raycae.model.autoencoder import build_network
from raycae.model.layers import receptive_margin
from raycae.model.tasks import make_task
from raycae.study.artifacts import get_model_folder
from raycae.study.study import Study


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small networks, called often: on a busy machine threads wait for each other most of all."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def codec_of(changes: dict[str, Any]) -> Codec:
    config = resolve(changes)
    return Codec(build_network(build_architecture(config), seed=0).eval(), config)


def label_of(ready: Codec) -> int | None:
    return 1 if ready.config.classes else None


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_pictures_are_the_networks_own(name: str) -> None:
    """Oracle: the task and the network, put together as validation does it, at the trained size."""
    ready = codec_of(NETWORKS[name])
    images = torch.from_numpy(noise(2, *[ready.config.image_size] * 2, 3))
    labels = torch.tensor([1, 1]) if ready.config.classes else None
    the_task = make_task(ready.config.task, ready.config.gammas, ready.config.classes)
    with torch.no_grad():
        output = ready.network(the_task.batch(images, labels)[0])
        expected = the_task.picture(images, output)
    rgb = images.permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(ready.run(rgb, label_of(ready)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SCALING)
def test_a_larger_picture_goes_through_as_a_whole(name: str) -> None:
    """Oracle: the network itself, given the picture that is mirrored by hand (numpy); 33 x 47
    comes back as 33 x 47."""
    ready = codec_of(SCALING[name])
    assert ready.stride
    picture = noise(33, 47, 3)
    below, right = -33 % ready.stride, -47 % ready.stride
    padded = np.pad(picture, ((0, below), (0, right), (0, 0)), mode="reflect")
    rgb = torch.from_numpy(padded).permute(2, 0, 1)[None] / 255
    labels = torch.tensor([1]) if ready.config.classes else None
    with torch.no_grad():
        expected = ready.rgb_network(rgb, labels)[0, :, :33, :47].permute(1, 2, 0).numpy()
    painted = ready.run(picture / np.float32(255), label_of(ready))
    assert painted.shape == (33, 47, 3)
    np.testing.assert_allclose(painted, expected, atol=1e-5)


@pytest.mark.parametrize("name", SCALING)
def test_pieces_are_as_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the same picture in one piece, nothing beyond `receptive_margin` has an effect."""
    ready = codec_of(SCALING[name])
    picture = torch.rand(3, 72, 104)
    whole = ready.run(picture, label_of(ready))
    for module in (codec, tiling):
        monkeypatch.setattr(module, "PIECE", 24)
    torch.testing.assert_close(ready.run(picture, label_of(ready)), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SCALING)
def test_reach(name: str) -> None:
    """Oracle: gradients. No pixel beyond `receptive_margin` of a latent position has one there."""
    config = resolve(SCALING[name] | {"image_size": 128})
    net = build_architecture(config)
    network, stride = build_network(net, seed=0).eval(), net.stride
    assert stride
    x = torch.rand(1, config.in_channels, 128, 128, requires_grad=True)
    at = net.latent_shape[1] // 2
    network.encode(x)[0, :, at, at].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum((0, 1, 2)).nonzero()
    margin = receptive_margin((*net.encoder, *net.linear[:1]), net.in_shape)
    assert at * stride - margin <= seen.min()
    assert seen.max() < (at + 1) * stride + margin


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    name=st.sampled_from(list(NETWORKS)),
)
def test_any_size_comes_back(height: int, width: int, name: str) -> None:
    """Oracle: invariant. A picture of any size has that size afterwards and is in [0, 1]."""
    ready = codec_of(NETWORKS[name])
    painted = ready.run(torch.rand(3, height, width), label_of(ready))
    assert painted.shape == (3, height, width)
    assert 0 <= painted.min() <= painted.max() <= 1


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), side=st.integers(2, 20))
def test_tiles_of_what_changes_nothing(height: int, width: int, side: int) -> None:
    """Oracle: a function that gives back its tile gives back the picture; each tile is of the
    size asked for."""

    def same(tiles: torch.Tensor) -> torch.Tensor:
        assert tiles.shape[2:] == (side, side)
        return tiles

    picture = torch.rand(2, 3, height, width)
    torch.testing.assert_close(tiling.apply_in_tiles(same, picture, side), picture)


def test_tiles_fade_into_each_other() -> None:
    """Oracle: by hand. Two tiles of 4 that overlap by half, one of 0 and one of 1: the weights
    are 1.5 : 0.5 and then 0.5 : 1.5."""
    levels = iter([0.0, 1.0])

    def level(tiles: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(tile[None], next(levels)) for tile in tiles])

    faded = tiling.apply_in_tiles(level, torch.zeros(1, 1, 4, 6), 4)
    for row in faded[0, 0]:
        torch.testing.assert_close(row, torch.tensor([0, 0, 0.25, 0.75, 1, 1]))


def pil(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


def planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("kind", "back"),
    [
        (pil, np.asarray),
        (lambda p: p, lambda p: p),
        (lambda p: p[None], lambda p: p[0]),
        (lambda p: p[::-1, ::-1][::-1, ::-1], lambda p: p),
        (lambda p: [pil(p), p[:9]], lambda p: np.asarray(p[0])),
        (lambda p: p / 255, lambda p: (p * 255).round().astype(np.uint8)),
        (planes, lambda p: p.permute(1, 2, 0).numpy()),
        (lambda p: planes(p)[None] / 255, lambda p: p[0].permute(1, 2, 0).mul(255).round().byte()),
    ],
)
def test_what_goes_in_comes_out(kind: Callable[..., Any], back: Callable[..., Any]) -> None:
    """Oracle: the same picture as uint8 array; type and dtype are those that went in."""
    ready, picture = codec_of({}), noise(20, 28, 3)
    pictures = kind(picture)
    painted = ready.reconstruct(pictures)
    assert type(painted) is (Image.Image if kind is pil else type(pictures))
    assert getattr(painted, "dtype", None) == getattr(pictures, "dtype", None)
    off = np.asarray(back(painted)).astype(int) - ready.reconstruct(picture)
    assert abs(off).max() <= 1


def test_grey_pictures_have_their_luma_alone() -> None:
    """Oracle: what a grey picture in RGB gives; and the colours of a picture do not matter, only
    its luma does."""
    ready, grey = codec_of({"task": "colourise"}), noise(16, 16)
    expected = ready.colourise(np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(ready.colourise(grey), expected)
    np.testing.assert_array_equal(np.asarray(ready.colourise(Image.fromarray(grey))), expected)
    painted = ready.colourise(torch.from_numpy(grey)[None])
    np.testing.assert_array_equal(painted.permute(1, 2, 0), expected)


@pytest.mark.parametrize("name", ["base", "grey", "linear", "odd size"])
def test_latents(name: str) -> None:
    """Oracle: `network.encode` and `network.decode`; shapes as the architecture says; decoding
    what was encoded gives what `reconstruct` gives."""
    ready = codec_of(NETWORKS[name])
    size = ready.config.image_size
    picture = noise(size, size, 3)
    z = ready.encode(picture)
    assert (z.shape, z.dtype) == (ready.architecture.latent_shape, np.float32)
    rgb = planes(picture)[None] / 255
    with torch.no_grad():
        expected = ready.network.encode(ready.task.prepare_input(rgb))
        y = ready.network.decode(expected).clamp(0, 1)
    np.testing.assert_allclose(z, expected[0], atol=1e-5)
    np.testing.assert_allclose(ready.decode(z), y[0].permute(1, 2, 0), atol=1e-5)
    assert ready.decode(torch.from_numpy(z)[None]).shape == y.shape
    if ready.config.task == "reconstruct":
        painted = ready.reconstruct(picture / np.float32(255))
        np.testing.assert_allclose(ready.decode(z), painted, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "n_values", "how"),
    [
        ("base", 16 * 28 * 32, "The latent grows with the image"),
        ("large kernels", 6 * 6 * 7, "Each tile has a latent"),
    ],
)
def test_a_large_image_warns_once_of_its_latent(name: str, n_values: int, how: str) -> None:
    """Oracle: by hand, for 128 x 112 pixels: 16 numbers per block of 4 x 4, and 6 for each of 7 x 6
    tiles that begin 16 pixels after each other. `run` and images of the training size do not warn.
    """
    ready, own = codec_of(NETWORKS[name]), {"base": "1,024", "large kernels": "6"}[name]
    large, same = noise(112, 128, 3), noise(32, 32, 3)
    assert ready.count_latent_values(112, 128) == n_values
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready.reconstruct([same, same[:8]])
        ready.run(large)
    with pytest.warns(UserWarning, match=how) as found:
        ready.reconstruct(large)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready.reconstruct([large, large])
    (warning,) = found
    assert warning.filename == __file__
    assert str(warning.message).startswith(
        f"the latent of an image of 128 x 112 pixels has {n_values:,} numbers, not {own} as for "
        "the 32 x 32 pixels that the model was trained on. "
    )


@pytest.mark.parametrize(
    ("name", "call", "says"),
    [
        ("base", lambda c: c.colourise(noise(8, 8, 3)), "colourise: this model was trained to rec"),
        ("grey", lambda c: c.reconstruct(noise(8, 8, 3)), "reconstruct: this model was trained to"),
        ("base", lambda c: c.reconstruct("cat.png"), "pictures of type str; allowed are"),
        ("base", lambda c: c.reconstruct(noise(8, 8, 4)), r"shape \(8, 8, 4\); allowed are"),
        ("base", lambda c: c.reconstruct(noise(0, 8, 3)), r"shape \(0, 8, 3\); allowed are"),
        ("base", lambda c: c.reconstruct(noise(8, 8, 3) * 1.0), "from 0 to 249; floating-point"),
        ("base", lambda c: c.reconstruct(np.full((8, 8, 3), np.nan)), "from nan to nan"),
        ("base", lambda c: c.reconstruct(noise(8, 8, 3).astype(int)), "of type int64; allowed are"),
        ("base", lambda c: c.reconstruct(Image.new("F", (8, 8))), "picture: floating-point pixels"),
        (
            "classes",
            lambda c: c.colourise(noise(8, 8, 3)),
            "labels: none given; this model needs",
        ),
        (
            "classes",
            lambda c: c.colourise(noise(8, 8, 3), 3),
            "labels: 3 is not allowed; .* 0 to 2",
        ),
        ("classes", lambda c: c.colourise(noise(8, 8, 3), [0, 1]), "labels: 2 for 1 images"),
        ("grey", lambda c: c.colourise(noise(8, 8, 3), 0), "labels: 0: this model does not use"),
        ("odd size", lambda c: c.encode(noise(33, 30, 3)), r"30 x 33 pixels \(width x height"),
        ("base", lambda c: c.decode(noise(3, 8, 8)), r"shape \(3, 8, 8\); .* \(16, h, w\)"),
        ("odd size", lambda c: c.decode(noise(16, 8, 8)), r"\(16, 8, 8\); .* \(16, 7, 7\)"),
        ("base", lambda c: c.decode("z"), r"latents of shape \(\)"),
    ],
)
def test_refused(name: str, call: Callable[[Codec], Any], says: str) -> None:
    """Oracle: one message that names what is wrong and what is allowed."""
    with pytest.raises(InputError, match=says):
        call(codec_of(NETWORKS[name]))


def test_a_refused_size_says_how_training_cut_images() -> None:
    """Oracle: `raycae.data`, which decodes the same image for training; evaluated as written, the
    expression in the message makes an image of these pixels, which the model encodes."""
    ready, image = codec_of(FIXED["odd size"]), Image.fromarray(noise(112, 128, 3))
    with pytest.raises(InputError, match="an image of 128 x 112 pixels") as refused:
        ready.encode(image)
    expression = str(refused.value).partition(", use ")[2].removesuffix(".")
    fitted = eval(expression, {"PIL": PIL, "image": image})
    file = io.BytesIO()
    image.save(file, "PNG")
    np.testing.assert_array_equal(fitted, decode(file.getvalue(), "a.png", 30)[0])
    assert ready.encode(fitted).shape == ready.architecture.latent_shape


@pytest.mark.parametrize(
    "label",
    [np.int64(1), torch.tensor(1), np.array(1)],
    ids=["numpy", "torch", "array of no dimension"],
)
def test_one_label_is_any_number(label: Any, tmp_path: Path) -> None:
    """Oracle: Python's own number."""
    ready = raycae.load(put_model(tmp_path / "m", NETWORKS["classes"]))
    picture = noise(8, 8, 3)
    np.testing.assert_array_equal(ready.colourise(picture, label), ready.colourise(picture, 1))


def test_of_a_list_each_picture_has_its_label(tmp_path: Path) -> None:
    """Oracle: the pictures one by one."""
    ready = raycae.load(put_model(tmp_path / "m", NETWORKS["classes"]))
    pictures = [noise(8, 8, 3), noise(12, 8, 3)]
    for call in (ready.colourise, ready.encode):
        for both, alone in zip(
            call(pictures, [2, 0]), zip(pictures, [2, 0], strict=True), strict=True
        ):
            np.testing.assert_array_equal(both, call(*alone))
    with pytest.raises(InputError, match="labels: 3 for 2 images"):
        ready.colourise(pictures, [0, 1, 2])
    with pytest.raises(InputError, match=r"labels: 1\.5 is not allowed"):
        ready.colourise(pictures[0], 1.5)  # type: ignore[arg-type]


def test_which_networks_have_a_size_of_their_own() -> None:
    """Oracle: by hand. The base model halves twice; the one with blocks by 4 and by 2; a kernel
    larger than its map, sizes that do not divide and missing margins fix the size."""
    strides = {
        name: build_architecture(resolve(changes)).stride for name, changes in SCALING.items()
    }
    assert strides.pop("linear") == 8
    assert set(strides.values()) == {4}
    assert {build_architecture(resolve(changes)).stride for changes in FIXED.values()} == {None}


def test_the_best_kept_model_of_a_study(study: Study, tmp_path: Path) -> None:
    """Oracle: by hand. Of two complete trials the one with the less error, and where its model is
    gone the other one; by name, by folder, or the model's own folder."""
    worse, best = run_trial(study, 0.3, 0.2, 0.2), run_trial(study, 0.3, 0.1, 0.1)
    study.close()
    with pytest.raises(InputError, match="tiny: this study has no model yet"):
        raycae.load("tiny", tmp_path)
    put_model(get_model_folder(study.folder, worse), {"channels": 5})
    assert raycae.load(study.folder).config.channels == (5, 5)
    put_model(get_model_folder(study.folder, best), {"channels": 6})
    for path in (study.folder, str(study.folder), study.folder / "models" / str(best)):
        assert raycae.load(path).config.channels == (6, 6)
    assert raycae.load("tiny", tmp_path).config.channels == (6, 6)
    assert raycae.load(f"tiny/models/{worse}", tmp_path).config.channels == (5, 5)
    with pytest.raises(
        InputError, match=r"trial 99 has no model\. Trials of tiny with a model: 0, 1"
    ):
        raycae.load("tiny/models/99", tmp_path)


def test_names_are_looked_up_where_commands_do(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the help of `--results`: RAYCAE_RESULTS if it is set, and an argument comes first."""
    put_model(get_model_folder(study.folder, run_trial(study, 0.1)), {"channels": 6})
    study.close()
    monkeypatch.setenv("RAYCAE_RESULTS", str(study.folder.parent))
    assert raycae.open_study("tiny").folder == study.folder
    assert raycae.load("tiny").config.channels == (6, 6)
    for lookup in (raycae.open_study, raycae.load):
        with pytest.raises(InputError, match="There are no studies in "):
            lookup("tiny", tmp_path / "elsewhere")


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def other_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)


def other_config(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["config"]["kernel"] = [9, 9]
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (drop("model.safetensors"), "this is not a model folder; .*model.safetensors is missing"),
        (drop("config.json"), "this is not a model folder; .*config.json is missing"),
        (other_weights, "cannot be read: model.safetensors does not match its checksum"),
        (other_config, "cannot be read: .*kernel"),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot be read"),
    ],
)
def test_damaged_models(damage: Callable[[Path], Any], says: str, tmp_path: Path) -> None:
    """Oracle: the message names the folder and what is wrong with it."""
    folder = put_model(tmp_path / "m", {})
    damage(folder)
    with pytest.raises(InputError, match=says):
        raycae.load(folder)


def test_real_images(jpeg_set: str, tmp_path: Path) -> None:
    """Oracle: the model's own forward on images of CIFAR-10 (JPEG), in 8 bits."""
    folder = put_model(tmp_path / "m", {})
    images = data.load_test(jpeg_set)[:8]
    network, _ = weights.load_model(folder)
    with torch.no_grad():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    painted = raycae.load(folder).reconstruct(images)
    off = painted - expected.permute(0, 2, 3, 1).mul(255).numpy()
    assert abs(off).max() <= 0.501
