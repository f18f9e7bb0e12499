"""Single changes: pairs of trials that differ in one setting."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.special import stdtrit

from raycae.config import Config, resolve
from raycae.formatting import format_count, format_ratio
from raycae.report import plotting
from raycae.report.plotting import BLUE, EXACT, GREY, ORANGE, VIOLET
from raycae.report.report_data import ReportData
from raycae.report.sampled_values import format_choice
from raycae.report.section import Section
from raycae.report.significance import LEVEL
from raycae.report.trials import describe_network, is_measured, select_ended
from raycae.report.wording import format_bound
from raycae.study.records import COMPLETE

CONFIDENCE = 0.95
"""Of the bootstrap intervals of importance, and for calling one parameter the most important."""
FEWEST_PAIRS = 5
"""Pairs in different settings below which an effect has no interval."""
MIRRORS = ("decoder_channels", "decoder_kernel", "decoder_convs", "latent_kernel")
"""Settings that follow the encoder unless they are given."""
NOT_COMPARED = ["task", "image_size", "gammas", "classes", "seed"]
"""What the network is shown, and chance."""


def compare_single_changes(
    trials: pd.DataFrame, epochs: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Measure what one setting alone does to the error.

    Two trials of the same seed that agree in all other settings make a comparison. Where one of
    them was stopped early both count with the lowest error they had by the last epoch that both
    reached. Comparisons with other seeds in the same settings repeat one another: they are averaged
    to one pair. So pairs differ in settings, share no trial, and a setting's pairs are independent.

    Args:
        trials: Trials in any state.
        epochs: Their epochs: `trial_number`, `epoch`, `val_mse`. Without them only complete trials
            are compared.

    Returns:
        One row an effect, the most pairs first: `setting`; `value`, the one with less error, and
        `other`; `n`, the pairs; `n_early`, those of them that rest on a stopped trial; `ratio`, the
        geometric mean of the error with `value` over that with `other`; `low` and `high`, its
        t-interval. The intervals hold together: all of them at once miss a ratio of 1
        by chance with a probability of at most `LEVEL` (Bonferroni). NaN below `FEWEST_PAIRS`.
    """
    rows = select_ended(trials)
    if epochs is None:
        rows = rows[rows["state"] == COMPLETE]
    # Of repeats with the same seed a complete trial is taken, else the first one.
    rows = rows.sort_values(["state", "trial_number"]).drop_duplicates(["config", "seed"])
    rows = select_comparable(rows)
    for number, text in zip(rows["trial_number"], rows["config"], strict=True):
        describe_network(number, text)  # It refuses a damaged configuration with one message.
    curves = {} if epochs is None else collect_least_errors(epochs, rows)
    runs = [
        _Run(number, state == COMPLETE, float(val_mse), curves.get(number, {}))
        for number, state, val_mse in zip(
            *(rows[name].tolist() for name in ("trial_number", "state", "val_mse")), strict=True
        )
    ]
    written = [get_written_settings(text) for text in rows["config"].astype(str)]
    names = sorted(written[0]) if written else []
    lines = [tuple(settings[name] for name in names) for settings in written]
    ratios: dict[tuple[str, str, str], list[tuple[float, bool]]] = {}
    for place, setting in enumerate(names):
        if setting in NOT_COMPARED or len({line[place] for line in lines}) < 2:
            continue
        # Momentum means nothing but to SGD, of which each momentum is one more trial.
        excluded = {setting, "momentum"} if setting == "optimizer" else {setting}
        kept = [i for i, name in enumerate(names) if name not in excluded]
        groups: dict[tuple[str, ...], list[tuple[str, int, _Run]]] = {}
        for line, seed, run in zip(lines, rows["seed"].tolist(), runs, strict=True):
            key = tuple([line[i] for i in kept])
            groups.setdefault(key, []).append((line[place], seed, run))
        for group in groups.values():
            for both, pair in compare_runs(group).items():
                ratios.setdefault((setting, *both), []).append(pair)
    n_tested = sum(len(found) >= FEWEST_PAIRS for found in ratios.values())
    effects = [estimate_effect(*key, found, n_tested) for key, found in ratios.items()]
    columns = ["setting", "value", "other", "n", "n_early", "ratio", "low", "high"]
    return pd.DataFrame(effects, columns=columns).sort_values(
        ["n", "ratio"], ascending=[False, True], ignore_index=True
    )


def select_comparable(trials: pd.DataFrame) -> pd.DataFrame:
    """Select the trials that may differ from another one in a single setting.

    Two trials that differ in a single written setting (`get_written_settings`) differ in at most
    one setting outside `MIRRORS`; `optimizer` and `momentum` count as one. A random search of
    20,000 trials has hardly such pairs, and to write the settings of all trials would take 8 s.

    Args:
        trials: Trials with `config`.

    Returns:
        Those trials in their order, and possibly a few others.
    """
    lines = [read_plain_settings(str(text)) for text in trials["config"]]
    names = sorted({name for line in lines for name in line})
    random = np.random.default_rng(0)
    codes = np.zeros((len(names), len(lines)), np.int64)
    for i, name in enumerate(names):
        values = [line.get(name, DEFAULTS.get(name)) for line in lines]
        if len(set(values)) == 1:
            continue
        places, kinds = pd.factorize(np.array(values, dtype=object))
        codes[i] = random.integers(-(2**62), 2**62, len(kinds) + 1)[places]
    # Sums of random numbers: equal for equal settings; two others have a chance of 1e-19.
    totals = codes.sum(axis=0)
    is_comparable = np.zeros(len(lines), bool)
    for code in codes:
        _, places, counts = np.unique(totals - code, return_inverse=True, return_counts=True)
        is_comparable |= counts[places] > 1
    return trials[is_comparable]


def read_plain_settings(text: str) -> dict[str, Any]:
    """Read the settings outside `MIRRORS` from a configuration, without checking it.

    Args:
        text: The configuration as JSON.

    Returns:
        The settings by name, with values that are equal where `format_brief` gives equal text;
        `optimizer` with its momentum. Empty if the configuration is damaged.
    """
    try:
        settings = json.loads(
            text, parse_float=lambda number: f"{float(number):.3g}", parse_int=str
        )
    except (ValueError, RecursionError):
        return {}
    if not isinstance(settings, dict):
        return {}
    settings["optimizer"] = f"{settings.get('optimizer')} {settings.pop('momentum', '0')}"
    return {
        name: simplify_list(value) if isinstance(value, (list, dict)) else value
        for name, value in settings.items()
        if name not in MIRRORS
    }


def simplify_list(values: Any) -> str:
    """Format a list; one of equal values like a single value.

    Args:
        values: The value of a setting in JSON.
    """
    if isinstance(values, list) and values and values.count(values[0]) == len(values):
        return str(values[0])
    return str(values)


DEFAULTS = read_plain_settings(resolve({}).to_json())
"""Settings that the configuration of an older version does not have."""


@dataclass(frozen=True)
class _Run:
    """A trial: whether it is complete, its error, and its lowest error by each epoch."""

    number: int
    is_complete: bool
    val_mse: float
    curve: Mapping[int, float]


def collect_least_errors(epochs: pd.DataFrame, trials: pd.DataFrame) -> dict[int, dict[int, float]]:
    """Collect the lowest error up to each epoch.

    Args:
        epochs: The epochs of all trials.
        trials: The trials to look at.

    Returns:
        The error by trial and epoch.
    """
    measured = epochs[
        epochs["trial_number"].isin(trials["trial_number"]) & is_measured(epochs["val_mse"])
    ]
    measured = measured.sort_values(["trial_number", "epoch"])
    errors = measured["val_mse"].astype(float).groupby(measured["trial_number"]).cummin()
    curves: dict[int, dict[int, float]] = {}
    for number, epoch, val_mse in zip(
        measured["trial_number"], measured["epoch"], errors, strict=True
    ):
        curves.setdefault(int(number), {})[int(epoch)] = float(val_mse)
    return curves


def compare_runs(
    group: list[tuple[str, int, _Run]],
) -> dict[tuple[str, str], tuple[float, bool]]:
    """Compare trials that agree in all settings but one.

    Args:
        group: The value of that setting, the seed, and the trial.

    Returns:
        By two values the mean difference of their log errors over all comparisons of the same
        seed, and whether any comparison is at an earlier epoch.
    """
    differences: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    ordered = sorted(group, key=lambda trial: trial[:2])
    for (value, seed, run), (other, other_seed, other_run) in itertools.combinations(ordered, 2):
        if value != other and seed == other_seed and (found := compute_difference(run, other_run)):
            differences.setdefault((value, other), []).append(found)
    return {
        both: (math.fsum(log for log, _ in found) / len(found), any(early for _, early in found))
        for both, found in differences.items()
    }


def compute_difference(run: _Run, other: _Run) -> tuple[float, bool] | None:
    """Compute the difference of the log errors of two trials.

    Args:
        run: A trial.
        other: Another trial. Errors up to `EXACT` count as `EXACT`.

    Returns:
        The difference, and whether it is taken before the last epoch; None if the trials have no
        epoch in common.
    """
    errors, is_early = (run.val_mse, other.val_mse), False
    if not (run.is_complete and other.is_complete):
        shared = run.curve.keys() & other.curve.keys()
        if not shared:
            return None
        errors = run.curve[max(shared)], other.curve[max(shared)]
        is_early = True
    first, second = (math.log(max(error, EXACT)) for error in errors)
    return first - second, is_early


@functools.lru_cache(maxsize=4096)
def get_written_settings(text: str) -> dict[str, str]:
    """Return the settings of a configuration as text.

    The result is cached. Without the cache, a call takes 0.35 ms of CPU (analysis/FINDINGS.md).

    Args:
        text: The configuration as JSON.

    Returns:
        The settings by name; those that mirror the encoder as `as the encoder`.
    """
    config = Config.model_validate_json(text)
    settings = config.model_dump()
    mirrored = resolve({name: value for name, value in settings.items() if name not in MIRRORS})
    for name in MIRRORS:
        if getattr(mirrored, name) == getattr(config, name):
            settings[name] = "as the encoder"
    return {name: format_brief(value) for name, value in settings.items()}


def format_brief(value: Any) -> str:
    """Format a setting: `max` if all stages have this value, else `max stride`.

    Args:
        value: The value of a setting, a tuple if each stage has one.
    """
    if isinstance(value, tuple):
        return (
            format_choice(value[0]) if len(set(value)) == 1 else " ".join(map(format_choice, value))
        )
    return format_choice(value)


def estimate_effect(
    setting: str, value: str, other: str, found: list[tuple[float, bool]], n_tested: int
) -> tuple[Any, ...]:
    """Estimate an effect from its pairs.

    Args:
        setting: The name of the setting.
        value: A value of the setting.
        other: Another value.
        found: The difference of the log errors of each pair, and whether it is an early one.
        n_tested: The number of effects that share `LEVEL`.

    Returns:
        A row of `compare_single_changes`.
    """
    logs, n = [log for log, _ in found], len(found)
    mean, half = float(np.mean(logs)), math.nan
    if n >= FEWEST_PAIRS:
        quantile = float(stdtrit(n - 1, 1 - LEVEL / n_tested / 2))
        half = quantile * float(np.std(logs, ddof=1)) / math.sqrt(n)
    if mean > 0:
        mean, value, other = -mean, other, value
    ratios = (math.exp(log) for log in (mean, mean - half, mean + half))
    return setting, value, other, n, sum(early for _, early in found), *ratios


def draw_single_changes(effects: pd.DataFrame, most: int = 24) -> go.Figure:
    """Draw the ratio of each effect with its interval, those with the most pairs on top.

    Args:
        effects: What `compare_single_changes` returns, at least one row.
        most: The largest number of effects.
    """
    rows = effects.head(most)[::-1]  # plotly begins at the bottom
    ratios = rows["ratio"]
    figure = plotting.make_figure("error ratio", "")
    figure.add_scatter(
        x=ratios.tolist(),
        y=[plotting.escape_html(name_change(row)) for row in rows.to_dict("records")],
        error_x={
            "type": "data",
            "array": (rows["high"] - ratios).fillna(0).tolist(),
            "arrayminus": (ratios - rows["low"]).fillna(0).tolist(),
            "color": GREY,
            "thickness": 1,
            "width": 3,
        },
        mode="markers",
        marker={"color": [ORANGE if high < 1 else BLUE for high in rows["high"]], "size": 8},
        hovertext=[describe_change(row) for row in rows.to_dict("records")],
        hoverinfo="text",
        showlegend=False,
    )
    figure.add_vline(x=1, line={"color": VIOLET, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(ticksuffix="  ")
    return figure.update_layout(height=100 + 26 * len(rows))


def name_change(effect: Mapping[Any, Any]) -> str:
    """Name an effect: `downsample: stride, not max`.

    Args:
        effect: A row of `compare_single_changes`.
    """
    return f"{effect['setting']}: {effect['value']}, not {effect['other']}"


def describe_change(effect: Mapping[Any, Any]) -> str:
    """Describe an effect: `0.93 times the error (0.90 to 0.97, 12 pairs)`.

    Args:
        effect: A row of `compare_single_changes`.
    """
    return f"{format_ratio(effect['ratio'])} times the error ({format_evidence(effect)})"


def format_evidence(effect: Mapping[Any, Any]) -> str:
    """Format the interval and the number of pairs of an effect: `0.90 to 0.97, 12 pairs`.

    Args:
        effect: A row of `compare_single_changes`.
    """
    n_pairs = format_count(effect["n"], "pair")
    if math.isnan(effect["low"]):
        return n_pairs
    return f"{format_bound(effect['low'])} to {format_bound(effect['high'])}, {n_pairs}"


def describe_single_changes(effects: pd.DataFrame) -> str:
    """Describe how many pairs there are, and the clearest effect if one stands out from chance.

    Args:
        effects: What `compare_single_changes` returns.
    """
    if effects.empty:
        return "No two trials differ in one setting alone, so there is nothing to pair."
    n_pairs, n_early = int(effects["n"].sum()), int(effects["n_early"].sum())
    verb = "differs" if n_pairs == 1 else "differ"
    text = f"{format_count(n_pairs, 'pair')} of trials {verb} in one setting alone."
    if n_early:
        was = "is" if n_early == 1 else "are"
        text += f" {n_early:,} of them {was} compared at the epoch where a trial was stopped."
    tested = effects[effects["n"] >= FEWEST_PAIRS]
    if tested.empty:
        largest = int(effects["n"].max())
        return (
            f"{text} No effect can be distinguished from chance. That needs at least "
            f"{FEWEST_PAIRS} independent pairs for one effect; the largest number is {largest}."
        )
    clear = tested[tested["high"] < 1].sort_values("high")
    if clear.empty:
        group = f"the {len(tested):,} effects" if len(tested) > 1 else "the effects"
        return f"{text} None of {group} with at least {FEWEST_PAIRS} pairs stands out from chance."
    row = clear.iloc[0].to_dict()
    return (
        f"{text} The clearest effect is that of {row['setting']}: {row['value']} has "
        f"{format_ratio(row['ratio'])} times the error of {row['other']} ({format_evidence(row)})."
    )


@dataclass(frozen=True, kw_only=True)
class SingleChangesSection(Section):
    """Pairs of trials that differ in one setting; a part of the section on importance."""

    template = "sections/single_changes.html.j2"
    sentence: str
    n_effects: int

    @classmethod
    def build(cls, data: ReportData) -> SingleChangesSection:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section, without a figure if there are no pairs.
        """
        effects = compare_single_changes(data.trials, data.epochs)
        return cls(
            figures={} if effects.empty else {"pairs": draw_single_changes(effects)},
            sentence=describe_single_changes(effects),
            n_effects=len(effects),
        )
