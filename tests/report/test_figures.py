"""The numbers behind the figures, against frames small enough to work out by hand, and the
frontier against its definition, tried on every pair."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_studies import made_study

from raycae import formatting
from raycae.config import resolve
from raycae.model.architecture import build_architecture
from raycae.report import plotting
from raycae.report.architecture_drawing import draw_architecture
from raycae.report.latent_error import compute_latent_error
from raycae.report.reproduction.figures import (
    compute_spread,
    compute_three_curves,
    draw_latent_spread,
    draw_spread,
)
from raycae.report.reproduction.page import format_times
from raycae.report.sections import frontier_growth, greedy_ladder, learning_curves
from raycae.report.sections.cost import draw_cost
from raycae.report.sections.latent_shape import draw_side
from raycae.report.sections.latent_size import draw_latent_error
from raycae.report.trials import add_config_columns, rank_trials
from raycae.study import tables
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING

BASELINES = pd.DataFrame(
    [
        ("mean_colour", None, 0.06),
        ("pca_8x8", 16, 0.05),
        ("pca_8x8", 1024, 0.003),
        ("pca", 64, 0.03),
        ("pca", 1024, 0.004),
        ("pca_8x8", 3072, 1e-31),
        ("grey_copy", None, 1e-33),
    ],
    columns=["baseline", "latent_size", "val_mse"],
).astype({"latent_size": "Int64", "val_mse": "Float64"})
BASELINES["test_mse"] = (BASELINES["val_mse"] * 1.1).where(BASELINES["latent_size"] != 16)


def made_trials(*rows: tuple[str, int, float | None]) -> pd.DataFrame:
    """(state, latent size, error), numbered from 0, with the types that `read_trials` gives."""
    frame = pd.DataFrame(rows, columns=["state", "latent_size", "val_mse"])
    frame.insert(0, "trial_number", range(len(rows)))
    frame["seed"] = 0
    frame["point"] = pd.Series([None] * len(rows), dtype="string")
    frame["config"] = resolve({"lr": 0.002, "batch_size": 64}).to_json()
    return add_config_columns(frame.astype({"latent_size": "Int64", "val_mse": "Float64"}))


def made_epochs(curves: dict[int, list[float | None]]) -> pd.DataFrame:
    rows = [(n, e, value) for n, curve in curves.items() for e, value in enumerate(curve, 1)]
    frame = pd.DataFrame(rows, columns=["trial_number", "epoch", "val_mse"])
    return frame.astype({"trial_number": "Int64", "epoch": "Int64", "val_mse": "Float64"})


def test_ladder_is_in_the_order_of_endings() -> None:
    """Oracle: by hand. Trial 2 ends before trial 1, so it is kept, and trial 1 comes again; trial 3
    has a parent that nobody knows; trial 4 runs. Nothing of a study without changes is a ladder."""
    trials = made_trials(
        (COMPLETE, 1024, 0.5),
        (COMPLETE, 1024, 0.3),
        (COMPLETE, 1024, 0.4),
        (COMPLETE, 1024, 0.2),
        (RUNNING, 1024, 0.1),
    )
    trials["change"] = pd.Series([None, "a", "b", "c", "d"], dtype="string")
    trials["parent"] = pd.Series([None, 0, 0, 17, 2], dtype="Int64")
    trials["ended_at"] = pd.to_datetime([f"2026-01-01 00:0{m}Z" for m in (0, 3, 2, 4, 5)])
    steps = greedy_ladder.make_ladder(trials)
    assert steps["trial_number"].tolist() == [0, 2, 1, 3]
    assert steps["verdict"].tolist() == ["start", "kept", "again", "dropped"]
    assert steps["best"].tolist() == [0.5, 0.4, 0.4, 0.4]
    assert steps["percent"].tolist()[1:3] == pytest.approx([-20, -40])
    assert steps["percent"].isna().tolist() == [True, False, False, True]
    drawn = greedy_ladder.draw_ladder(steps)
    assert drawn is not None
    assert {trace.name: list(trace.x) for trace in drawn.data} == {
        "best so far": [1, 2, 3, 4],
        "start and kept changes": [1, 2],
        "to be tried again": [3],
        "dropped": [4],
    }
    none = greedy_ladder.make_ladder(trials.assign(change=pd.Series([None] * 5, dtype="string")))
    assert none.empty
    assert greedy_ladder.draw_ladder(none) is None


def test_described_says_what_the_configuration_says() -> None:
    """Oracle: the settings written into it, and the base model's words from its definition."""
    row = made_trials((COMPLETE, 1024, 0.01)).iloc[0]
    assert (row["optimizer"], row["lr"], row["batch_size"]) == ("adam", 0.002, 64)
    assert row["network"].startswith("conv 3-8 k3, max-pool 2, conv 8-12 k3")


def test_latent_error_keeps_trials_that_ended_with_an_error() -> None:
    """Oracle: by hand. Failed and running trials and those without a finite error have no point; an
    error of 0 is a measured one."""
    trials = made_trials(
        (COMPLETE, 1024, 0.004),
        (PRUNED, 256, 0.02),
        (FAIL, 64, 0.001),
        (RUNNING, 64, 0.001),
        (PRUNED, 64, None),
        (COMPLETE, 2048, 0.005),
        (COMPLETE, 32, math.inf),
        (COMPLETE, 32, 0.0),
        (COMPLETE, 32, 5e-324),
    )
    data = compute_latent_error(trials, BASELINES)
    assert data.points["trial_number"].tolist() == [0, 1, 5, 7, 8]
    assert data.points["on_frontier"].tolist() == [False, False, False, True, False]
    assert data.frontier["trial_number"].tolist() == [7]
    assert data.points["linear_mse"].tolist()[:3] == [0.003, 0.03, 0.003]


def test_baselines_are_parted_by_whether_they_have_a_latent() -> None:
    """Oracle: by hand. A level of no error (pictures without colour) is a level."""
    data = compute_latent_error(made_trials((COMPLETE, 1024, 0.004)), BASELINES)
    assert data.levels == {"grey_copy": 1e-33, "mean_colour": 0.06}
    assert data.linear["latent_size"].tolist() == [64, 1024, 16, 1024, 3072]
    assert data.linear["baseline"].tolist() == ["pca"] * 2 + ["pca_8x8"] * 3


def test_older_studies_call_pca_linear(tmp_path: Path) -> None:
    """Oracle: the same table with the names of today."""
    codes = [("linear", 64, 0.03), ("linear_4x4", 512, 0.02), ("mean_colour", None, 0.06)]
    folder = made_study(tmp_path / "s", [], baselines=codes)
    found = tables.read_baselines(folder)
    assert found is not None
    assert found["baseline"].tolist() == ["pca", "pca_4x4", "mean_colour"]


@pytest.mark.parametrize(
    ("latent_size", "code"),
    [(15, None), (16, ("pca_8x8", 16)), (500, ("pca", 64)), (1024, ("pca_8x8", 1024))],
)
def test_the_linear_code_to_compare_with_is_never_larger(
    latent_size: int, code: tuple[str, int] | None
) -> None:
    """Oracle: read off `BASELINES`."""
    data = compute_latent_error(made_trials((COMPLETE, 1024, 0.004)), BASELINES)
    found = data.find_best_linear(latent_size)
    assert (found and (found.baseline, found.latent_size)) == code


def test_without_baselines_there_are_points_alone() -> None:
    """Oracle: an interrupted search leaves no `baselines.parquet`."""
    data = compute_latent_error(made_trials((COMPLETE, 1024, 0.004)), None)
    assert data.linear.empty
    assert data.levels == {}
    assert math.isnan(data.points["linear_mse"].iloc[0])
    assert len(draw_latent_error(data).data) == 2  # frontier, complete


def test_latent_error_figure_draws_the_numbers_it_is_given() -> None:
    """Oracle: the frame's numbers; the code without any error is left out, the axes are logarithmic
    and hold every point. The level without any error is a line where the axis says 0, below all."""
    trials = made_trials((COMPLETE, 1024, 0.004), (PRUNED, 256, 0.02))
    figure = draw_latent_error(compute_latent_error(trials, BASELINES))
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["complete"].x) == [1024]
    assert list(traces["stopped early"].y) == [0.02]
    assert list(traces["Pareto front"].x) == [256, 1024]
    assert list(traces["PCA, 8 × 8 blocks"].x) == [16, 1024]
    assert "lr 0.002, batch 64" in traces["complete"].hovertext[0]
    assert [note.text for note in figure.layout.annotations] == ["mean colour", "grey copy"]
    assert figure.layout.yaxis.ticktext[0] == "0"
    assert figure.layout.yaxis.tickvals[0] == pytest.approx(0.002)
    assert figure.layout.annotations[1].y == pytest.approx(math.log10(0.002))
    for axis, values in ((figure.layout.xaxis, (256, 1024)), (figure.layout.yaxis, (0.004, 0.06))):
        assert axis.type == "log"
        assert axis.range[0] < math.log10(values[0])
        assert math.log10(values[1]) < axis.range[1]


def test_levels_too_close_for_a_label_each_share_one() -> None:
    """Oracle: the names from the top line down, above it; a distant level stands alone."""
    levels = [("mean_chroma", None, 0.0038), ("grey_copy", None, 0.0041), ("far", None, 0.0001)]
    baselines = pd.DataFrame(levels, columns=["baseline", "latent_size", "val_mse"])
    baselines["test_mse"] = baselines["val_mse"]
    data = compute_latent_error(made_trials((COMPLETE, 1024, 0.002)), baselines)
    notes = draw_latent_error(data).layout.annotations
    assert [note.text for note in notes] == ["grey copy<br>mean chroma", "far"]
    assert notes[0].y == pytest.approx(math.log10(0.0041))


def test_what_comes_from_files_is_text_to_plotly() -> None:
    """Oracle: plotly would read `<b>` as bold; it gets the escaped name."""
    trials = made_trials((COMPLETE, 1024, 0.004))
    trials["point"] = "<b>bold</b>"
    baselines = pd.DataFrame([("<i>", None, 0.1, 0.1)], columns=[*BASELINES.columns])
    figure = draw_latent_error(compute_latent_error(trials, baselines))
    assert "&lt;b&gt;bold" in figure.data[-1].hovertext[0]
    assert figure.layout.annotations[0].text == "&lt;i&gt;"


def test_the_frontier_shows_what_was_measured() -> None:
    """Oracle: by hand. Two of three trials are on the front and have a ring each; the line between
    them is dotted. So it is with the lowest error at each number of channels."""
    trials = made_trials((COMPLETE, 64, 0.03), (COMPLETE, 256, 0.01), (COMPLETE, 128, 0.04))
    trials[["latent_channels", "latent_height", "latent_width"]] = [[1, 8, 8], [4, 8, 8], [2, 8, 8]]
    (front,) = draw_latent_error(compute_latent_error(trials, None)).select_traces(
        {"name": "Pareto front"}
    )
    (least,) = draw_side(trials, "latent_channels").select_traces({"name": "lowest error"})
    assert (list(front.x), list(front.y)) == ([64, 256], [0.03, 0.01])
    assert list(least.x) == [1, 2, 4]
    for trace in (front, least):
        assert (trace.mode, trace.line.dash, trace.line.shape) == ("lines+markers", "dot", None)
        assert trace.marker.symbol == "circle-open"


def test_growth_of_the_frontier() -> None:
    """Oracle: by hand. Costs from 64 to 2 x 256, three doublings; doing nothing is 0.06. The second
    trial to end, of 64 numbers, has a tenth of that over all three; the first, of 256 numbers, a
    hundredth over one; the third has more error for more numbers. Of the linear codes the one of 64
    numbers has half of 0.06 over all doublings."""
    trials = made_trials(
        (COMPLETE, 64, 0.006), (PRUNED, 256, 0.0006), (COMPLETE, 128, 0.02), (FAIL, 64, 1e-9)
    )
    trials["ended_at"] = pd.to_datetime([f"2026-01-01 00:0{m}Z" for m in (2, 1, 3, 4)])
    latent = compute_latent_error(trials, BASELINES)
    grown = frontier_growth.compute_growth(trials, latent, "latent_size")
    assert grown is not None
    assert (grown.low, grown.high, grown.worst) == (64, 512, 0.06)
    assert grown.steps["height"].tolist() == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    assert grown.line == pytest.approx(math.log10(2))
    figure = frontier_growth.draw_growth(grown)
    assert [trace.name for trace in figure.data] == [
        "Pareto front",
        "PCA at the sizes of the final front",
    ]
    trials["n_params"] = [10, 20, 30, 40]
    other = frontier_growth.compute_growth(trials, latent, "n_params")
    assert other is not None
    assert other.line is None
    assert frontier_growth.compute_growth(trials.iloc[3:], latent, "latent_size") is None


def test_growth_compares_pca_at_the_sizes_of_the_front() -> None:
    """Oracle: by hand. At 64 and at 256 numbers, the front has 0.8 times the error of PCA, so its
    mean over the costs does too. PCA has other sizes as well, but the trials have not."""
    trials = made_trials((COMPLETE, 64, 0.008), (COMPLETE, 256, 0.0008))
    trials["ended_at"] = pd.to_datetime(["2026-01-01 00:01Z", "2026-01-01 00:02Z"])
    sizes = [None, 16, 64, 128, 200, 256, 300]
    errors = [0.1, 0.02, 0.01, 0.003, 0.002, 0.001, 0.0001]
    names = ["mean_colour", *["pca"] * 6]
    codes = pd.DataFrame({"baseline": names, "latent_size": sizes, "val_mse": errors})
    latent = compute_latent_error(trials, codes.assign(test_mse=codes["val_mse"]))
    grown = frontier_growth.compute_growth(trials, latent, "latent_size")
    assert grown is not None
    assert grown.line == pytest.approx((2 * 1 + 2) / 3)
    assert grown.steps["height"].iloc[-1] - grown.line == pytest.approx(-math.log10(0.8))


def test_error_against_another_cost() -> None:
    """Oracle: read off: the cheap one and the good one make the frontier, the third does not."""
    trials = made_trials((COMPLETE, 64, 0.01), (PRUNED, 64, 0.004), (COMPLETE, 64, 0.02))
    trials["flops"] = [100, 1000, 500]
    figure = draw_cost(trials, "flops")
    traces = {trace.name: list(trace.x) for trace in figure.data}
    assert traces == {"Pareto front": [100, 1000], "stopped early": [1000], "complete": [100, 500]}


def test_the_front_by_psnr_is_its_own() -> None:
    """Oracle: by hand. The trial of 128 numbers has less error than that of 64 but no higher PSNR;
    the trial of 256 has the highest."""
    trials = made_trials((COMPLETE, 64, 0.02), (PRUNED, 128, 0.01), (COMPLETE, 256, 0.03))
    data = compute_latent_error(trials.assign(val_psnr_db=[20.0, 19.0, 21.0]), None)
    assert data.frontier["trial_number"].tolist() == [0, 1]
    assert data.psnr_frontier["trial_number"].tolist() == [0, 2]


def test_learning_curves_of_few_trials_are_all_there() -> None:
    """Oracle: by hand. The best is the best of the complete ones; a null epoch is left out."""
    trials = made_trials(
        (COMPLETE, 64, 0.02), (COMPLETE, 64, 0.01), (PRUNED, 64, 0.005), (FAIL, 64, 0.03)
    )
    epochs = made_epochs({0: [0.04, 0.02], 1: [0.03, 0.01], 2: [0.005], 3: [0.03, None]})
    data = learning_curves.select_learning_curves(trials, epochs)
    assert data.best == 1
    assert (data.n_drawn, data.n_trials, data.stopped_after) == (4, 4, (1,))
    assert data.curves["trial_number"].tolist() == [0, 0, 1, 1, 2, 3]
    assert data.curves["val_mse"].tolist() == [0.04, 0.02, 0.03, 0.01, 0.005, 0.03]


def test_many_learning_curves_are_taken_evenly_and_with_the_best() -> None:
    """Oracle: of 100 trials in order of their error, the best and the worst are drawn, no gap
    between ranks is above 99 / 29, and the best complete trial is there behind stopped ones."""
    states = [PRUNED] * 2 + [COMPLETE] * 98
    trials = made_trials(*((state, 64, 0.001 * (n + 1)) for n, state in enumerate(states)))
    data = learning_curves.select_learning_curves(
        trials, made_epochs({n: [0.001 * (n + 1)] for n in range(100)})
    )
    drawn = data.curves["trial_number"].unique()
    assert (data.best, data.n_drawn, data.n_trials) == (2, 30, 100)
    assert 2 in drawn
    assert drawn.max() == 99
    assert np.diff(drawn).max() <= 4


def test_learning_curves_figure_has_one_line_a_kind() -> None:
    """Oracle: four kinds of trials, gaps between the trials of a kind, and the best on top."""
    trials = made_trials(
        *((COMPLETE, 64, 0.01 + n / 1000) for n in range(3)), (PRUNED, 64, 0.02), (RUNNING, 64, 0.1)
    )
    figure = learning_curves.draw_learning_curves(
        learning_curves.select_learning_curves(
            trials, made_epochs({n: [0.05, 0.03] for n in range(5)})
        )
    )
    names = ["failed or not ended", "stopped early", "complete", "best: trial 0"]
    assert [trace.name for trace in figure.data] == names
    assert list(figure.data[2].x) == [1, 2, None, 1, 2, None]


def test_ranking_puts_failures_and_the_unknown_last() -> None:
    """Oracle: by hand."""
    trials = made_trials(
        (FAIL, 64, 0.001), (RUNNING, 64, None), (PRUNED, 64, 0.2), (COMPLETE, 64, 0.3)
    )
    assert rank_trials(trials)["trial_number"].tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize("n", [0, 1])
def test_no_trial_and_no_epoch_are_empty_numbers(n: int) -> None:
    """Oracle: nothing in, nothing out, with the columns that the figures look for."""
    trials = made_trials((RUNNING, 64, None)).iloc[:n]
    latent = compute_latent_error(trials, None)
    curves = learning_curves.select_learning_curves(trials, made_epochs({}))
    assert latent.points.empty
    assert latent.frontier.empty
    assert (curves.best, curves.n_drawn, curves.n_trials) == (None, 0, 0)


@given(st.floats(1e-6, 1.0), st.floats(1.05, 1e6))
def test_ticks_of_a_logarithmic_axis(low: float, span: float) -> None:
    """Oracle: ticks lie inside, rise, and are enough to read the axis and few enough for labels."""
    high = low * span
    ticks = plotting.choose_log_ticks(low, high)
    assert all(low <= tick <= high * (1 + 1e-9) for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert 3 <= len(ticks) <= 16


@pytest.mark.parametrize(
    ("mse", "text"), [(0.0123456, "0.01235"), (0.001, "0.00100"), (0.00021, "0.000210")]
)
def test_errors_keep_three_digits(mse: float, text: str) -> None:
    """Oracle: by hand."""
    assert formatting.format_error(mse) == text


def runs_of(**errors: tuple[int, list[float]]) -> pd.DataFrame:
    """Experiments by name: latent size, and the test error of each seed."""
    return pd.DataFrame(
        [
            {"experiment": name, "seed": seed, "latent_size": size, "test": mse}
            for name, (size, each) in errors.items()
            for seed, mse in enumerate(each)
        ]
    )


def lines_of(*rows: tuple[str, int | None, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["baseline", "latent_size", "test_mse"])
    return frame.assign(val_mse=9.0)  # another figure: the test images are what is shown


def test_spread_over_seeds_and_baselines() -> None:
    """Oracle: by hand. Best mean first; each experiment beside the best linear code, of whole
    images or blocks, of at most its latent size on the test images; below the smallest none."""
    found = runs_of(a=(1024, [0.4, 0.2]), b=(256, [0.1, 0.3]), c=(32, [0.05, 0.06]))
    codes = [("pca", 64, 0.03), ("pca", 512, 0.02), ("pca_4x4", 1000, 0.01)]
    data = compute_spread(found, lines_of(*codes, ("mean_colour", None, 0.6)))
    assert data.rows["experiment"].tolist() == ["c", "b", "a"]
    assert data.rows["mean"].tolist() == pytest.approx([0.055, 0.2, 0.3])
    assert (data.rows["low"].tolist(), data.rows["high"].tolist()) == (
        [0.05, 0.1, 0.2],
        [0.06, 0.3, 0.4],
    )
    none, *others = data.rows["baseline"]
    assert math.isnan(none)
    assert others == [0.03, 0.01]
    assert data.levels == {"mean_colour": 0.6}


def test_baseline_where_nothing_is_coded() -> None:
    """Oracle: by hand. Colourisation has no linear code: the least of the levels."""
    levels = [("grey_copy", None, 0.5), ("mean_chroma", None, 0.4), ("luma_function", None, 0.3)]
    data = compute_spread(runs_of(a=(64, [0.2])), lines_of(*levels))
    assert data.rows["baseline"].tolist() == [0.3]
    assert data.baseline_name == "best function of luma"


def test_curves_are_means_of_the_seeds_that_are_there() -> None:
    """Oracle: by hand. Two seeds have epoch 1, one has epoch 2: a mean of fewer would be a bend."""
    epochs = pd.DataFrame(
        {
            "point": ["a"] * 3,
            "seed": [0, 1, 0],
            "epoch": [1, 1, 2],
            "train_mse": [0.2, 0.4, 0.1],
            "val_mse": [0.3, 0.5, 0.1],
            "test_mse": [0.4, 0.6, 0.1],
        }
    )
    curves = compute_three_curves(epochs)
    assert curves["epoch"].tolist() == [1]
    assert curves[["train_mse", "val_mse", "test_mse"]].iloc[0].tolist() == pytest.approx(
        [0.3, 0.4, 0.5]
    )


def test_zero_is_drawn_where_the_axis_says_so() -> None:
    """Oracle: by hand. An error and a level of 0 are drawn at half of the least other
    error, where the axis has a tick `0`; nothing else moves."""
    found = runs_of(a=(64, [0.0, 0.02]), b=(64, [0.04, 0.06]))
    data = compute_spread(found, lines_of(("grey_copy", None, 0.0), ("mean_chroma", None, 0.05)))
    figure = draw_spread(data)
    assert sorted(figure.data[0].x) == [0.01, 0.02, 0.04, 0.06]
    assert figure.layout.xaxis.tickvals[0] == 0.01
    assert figure.layout.xaxis.ticktext[0] == "0"
    assert draw_latent_spread(data).layout.yaxis.ticktext[0] == "0"
    assert format_times(0.0, 0.0) == "–"
    assert formatting.format_error(0.0) == "0"


def test_a_network_is_drawn_as_its_maps() -> None:
    """Oracle: the shapes of the layers; the latent is the narrowest map in the middle."""
    config = resolve(
        {
            "linear_path": "random",
            "output": "linear",
            "refine": 8,
            "downsample": ["stride"],
            "factor": [4],
        }
    )
    architecture = build_architecture(config)
    drawing = draw_architecture(architecture)
    shapes = [architecture.in_shape, *(layer.out_shape for layer in architecture.encoder)]
    shapes += [layer.out_shape for layer in (*architecture.decoder, *architecture.refine)]
    for box, (channels, height, width) in zip(drawing.boxes, shapes, strict=True):
        assert box.title.endswith(f": {channels} × {height} × {width}")
    kinds = [box.kind for box in drawing.boxes]
    assert kinds[0] == kinds[-1] == "image"
    assert kinds.index("latent") == len(architecture.encoder)
    assert kinds.count("image") == 3  # the image, the decoder's image, and the refined one
    assert len(drawing.paths) == 3
    assert all(a.x + a.width < b.x for a, b in itertools.pairwise(drawing.boxes))
    assert drawing.boxes[-1].x + drawing.boxes[-1].width < drawing.width
