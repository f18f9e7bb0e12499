"""What mattered in a study: each setting's weight, the shape of its effect, and its size.

Numbers first, figures second, as in `figures`. A *parameter* is what the space leaves open and a
sampler draws (`lr`, `channels_2`); a *setting* is one of `config.Config`, searched or not.
"""

from __future__ import annotations

import itertools
import json
import math
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from scipy.special import stdtrit

from raycae import canvas
from raycae.canvas import BLUE, GREY, ORANGE, VIOLET, counted, error, listed
from raycae.config import Config, resolve
from raycae.figures import ended, ranking, thinned
from raycae.results import COMPLETE, PRUNED
from raycae.space import CategoricalParameter, FloatParameter, IntParameter

Parameter = FloatParameter | IntParameter | CategoricalParameter
Parameters = Mapping[str, Parameter]
"""By the name that a column carries behind `params_`, as `space.Space.parameters` has it."""

BEST = 0.1
"""The share of trials that counts as the best ones."""

FEWEST = 10
"""Trials, so that the best tenth is one at all."""

MOST_WEIGHED = 2000
"""Trials that importance is computed on; more of them take longer to say the same."""

CONFIDENCE = 0.95

AXES = 10
"""Of parallel coordinates; more of them nobody reads."""

MIRRORS = ("decoder_channels", "decoder_kernel", "decoder_convs", "latent_kernel")
"""Settings that are as the encoder has them unless somebody says otherwise."""

NOT_COMPARED = ["task", "image_size", "gammas", "classes", "seed"]
"""What the network is shown, and chance."""


def values(trials: pd.DataFrame, name: str, parameter: Parameter) -> pd.Series[Any]:
    """What each trial drew for a parameter, as the space writes it; null where it drew none, or
    where a named point lies outside of what is searched."""
    if (column := f"params_{name}") not in trials:
        return pd.Series(None, index=trials.index, dtype=object)
    known: dict[Any, Any] = {}
    if isinstance(parameter, CategoricalParameter):
        # A column of numbers and words is one of words.
        known = {str(label): label for label in parameter.labels}
        known |= {label: label for label in parameter.labels}
    told: list[Any] = []
    for value in trials[column].astype(object).where(trials[column].notna(), None).tolist():
        if value is None:
            told.append(None)
        elif isinstance(parameter, CategoricalParameter):
            told.append(known.get(value))
        else:
            told.append(parameter.label(value) if parameter.contains(value) else None)
    return pd.Series(told, index=trials.index, dtype=object)


def weighed(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that importance rests on: those that ended with an error, evenly thinned to
    `MOST_WEIGHED` at most."""
    rows = ended(trials)
    return rows.iloc[:: max(1, math.ceil(len(rows) / MOST_WEIGHED))]


def importance(trials: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """How much each parameter says about which trials are among the best tenth.

    `parameter`, `share` (0 to 1; together 1), `n` (the trials that drew it), the weightiest first.
    Trials that were stopped early count with the error they had. Empty where fewer than `FEWEST`
    trials have ended with an error, or no parameter has weight.

    Source: Optuna's PED-ANOVA (Watanabe et al., IJCAI 2023), which weighs a conditional parameter
    within the trials that drew it.
    """
    rows = weighed(trials)
    drawn = {name: values(rows, name, parameter) for name, parameter in parameters.items()}
    drawn = {name: column for name, column in drawn.items() if column.notna().any()}
    none = pd.DataFrame({"parameter": [], "share": [], "n": []})
    if len(rows) < FEWEST or not drawn:
        return none
    distributions = {name: parameters[name].distribution for name in drawn}
    study = optuna.create_study()
    columns = [column.tolist() for column in drawn.values()]
    told = []
    for val_mse, *row in zip(rows["val_mse"].astype(float).tolist(), *columns, strict=True):
        own = {name: value for name, value in zip(drawn, row, strict=True) if value is not None}
        theirs = {name: distributions[name] for name in own}
        told.append(optuna.trial.create_trial(params=own, distributions=theirs, value=val_mse))
    study.add_trials(told)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters that one trial drew; `n` says so
        weights = evaluator.evaluate(study)
    if not (total := math.fsum(weights.values())):
        return none
    found = [
        (name, weight / total, int(drawn[name].notna().sum())) for name, weight in weights.items()
    ]
    return pd.DataFrame(found, columns=["parameter", "share", "n"]).sort_values(
        ["share", "parameter"], ascending=[False, True], ignore_index=True
    )


def importance_figure(weights: pd.DataFrame) -> go.Figure:
    """One bar a parameter, the weightiest on top. Needs one."""
    rows = weights[::-1]  # plotly begins at the bottom
    figure = canvas.figure("share of the importance", "")
    figure.add_bar(
        x=rows["share"].tolist(),
        y=rows["parameter"].tolist(),
        orientation="h",
        marker={"color": BLUE},
        hovertext=[
            f"{name}: {share:.0%}, drawn by {n:,} trials"
            for name, share, n in rows.itertuples(index=False)
        ],
        hoverinfo="text",
        showlegend=False,
    )
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(showgrid=False, ticksuffix="  ")
    return figure.update_layout(height=90 + 24 * len(rows))


def position(value: Any, parameter: Parameter) -> float:
    """Where a value lies in what is searched: 0 at the lower end, or the first choice, 1 at the
    upper end, or the last; as the sampler measures it, on a logarithmic scale where it draws so."""
    if isinstance(parameter, CategoricalParameter):
        return parameter.labels.index(value) / max(len(parameter.labels) - 1, 1)
    low, high, value = (
        math.log(end) if parameter.log else float(end)
        for end in (parameter.low, parameter.high, value)
    )
    return (value - low) / (high - low) if high > low else 0.0


def marks(parameter: Parameter) -> list[tuple[float, str]]:
    """Positions and their values in words: all choices, or the range's ends and its middle."""
    if isinstance(parameter, CategoricalParameter):
        shown = parameter.labels
    else:
        shown = list(dict.fromkeys([parameter.low, parameter.middle, parameter.high]))
    return [(position(value, parameter), word(value)) for value in shown]


def word(value: Any) -> str:
    """A parameter's value, floats in three digits, a list's members with commas."""
    if isinstance(value, str) and value.startswith("["):  # the label of a list
        return ", ".join(map(word, json.loads(value)))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    """What fits beside an axis."""
    return textwrap.shorten(text, 18, placeholder="…")


def positions(trials: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """`position` of what each trial drew; one column for each parameter that any trial drew, NaN
    where a trial did not."""
    columns = {}
    for name, parameter in parameters.items():
        drawn = values(trials, name, parameter)
        if drawn.notna().any():
            places = {value: position(value, parameter) for value in drawn.dropna().unique()}
            columns[name] = drawn.map(places).astype(float)
    return pd.DataFrame(columns, index=trials.index)


@dataclass(frozen=True)
class Slice:
    """One parameter against the error. `points`: `trial_number`, `state`, `value` (as the space
    writes it), `val_mse` of the trials that drew it. `best`: the values among the best tenth of
    these, from the least to the greatest, or the commonest choice."""

    name: str
    parameter: Parameter
    points: pd.DataFrame
    best: str


def slices(trials: pd.DataFrame, parameters: Parameters) -> list[Slice]:
    """One for each parameter that a trial which ended with an error drew."""
    ranked = ranking(ended(trials))
    found = []
    for name, parameter in parameters.items():
        points = ranked.assign(value=values(ranked, name, parameter))
        points = points.loc[points["value"].notna(), ["trial_number", "state", "value", "val_mse"]]
        if points.empty:
            continue
        best = points["value"].head(math.ceil(BEST * len(points)))
        if isinstance(parameter, CategoricalParameter):
            counts = best.map(word).value_counts()
            said = f"mostly {counts.index[0]}" if len(counts) > 1 else str(counts.index[0])
        else:
            ends = dict.fromkeys((word(best.min()), word(best.max())))
            said = " to ".join(ends)
        found.append(Slice(name, parameter, points.reset_index(drop=True), said))
    return found


def slice_figure(data: Slice, most: int = 300) -> go.Figure:
    """Error over the parameter, of at most `most` trials, on logarithmic axes where the space
    draws so."""
    points, parameter = thinned(data.points, most), data.parameter
    errors = points["val_mse"].astype(float).tolist()
    top = canvas.ceiling(errors)
    figure = canvas.figure("", "")
    order = None
    if isinstance(parameter, CategoricalParameter):
        order = [canvas.plain(word(label)) for label in parameter.labels]
    for state, name, marker in (
        (PRUNED, "stopped early", {"color": GREY, "symbol": "circle-open", "size": 5}),
        (COMPLETE, "complete", {"color": BLUE, "size": 5}),
    ):
        shown = points[points["state"] == state]
        numbers = shown["trial_number"].astype(int).tolist()
        shown_values = shown["value"].tolist()
        texts = [
            f"trial {number}, {data.name} {word(value)}: {error(val_mse)}"
            for number, value, val_mse in zip(numbers, shown_values, shown["val_mse"], strict=True)
        ]
        figure.add_scatter(
            x=[canvas.plain(word(v)) for v in shown_values] if order else shown_values,
            y=shown["val_mse"].astype(float).clip(upper=top).tolist(),
            customdata=numbers,
            name=name,
            mode="markers",
            marker=marker,
            hovertext=list(map(canvas.plain, texts)),
            hoverinfo="text",
        )
    figure.update_yaxes(canvas.error_axis(errors))
    if isinstance(parameter, CategoricalParameter):
        figure.update_xaxes(
            type="category",
            categoryorder="array",
            categoryarray=order,
            tickvals=order,
            ticktext=[canvas.plain(_short(word(label))) for label in parameter.labels],
        )
        figure.update_xaxes(range=[-0.5, len(parameter.labels) - 0.5])
    elif parameter.log and parameter.high > parameter.low:
        ends = parameter.low / 1.1, parameter.high * 1.1
        figure.update_xaxes(canvas.log_axis(*ends))
    return figure.update_layout(showlegend=False)


def parallel_figure(
    trials: pd.DataFrame, parameters: Parameters, most: int = 150
) -> go.Figure | None:
    """A line for each trial through what it drew of the first `AXES` parameters, the best tenth on
    top. None where fewer than two parameters are drawn. Plotly's own parallel coordinates need
    WebGL and code made from strings."""
    ranked = ranking(ended(trials))
    places = positions(ranked, parameters).iloc[:, :AXES]
    names = [str(name) for name in places]
    if len(names) < 2:
        return None
    n_best = math.ceil(BEST * len(ranked))
    figure = canvas.figure("", "")
    for label, rows, colour, width, at_most in (
        ("others", ranked[n_best:], "rgba(138, 143, 150, 0.3)", 1.0, most),
        ("the best tenth", ranked[:n_best], ORANGE, 1.5, 40),
    ):
        if rows.empty:
            continue
        rows = thinned(rows, at_most)
        x: list[str | None] = []
        y: list[float | None] = []
        for line in places.loc[rows.index].to_numpy().tolist():
            x += [*names, None]
            y += [*(None if math.isnan(at) else at for at in line), None]
        figure.add_scatter(
            x=x,
            y=y,
            name=label,
            mode="lines+markers",
            line={"color": colour, "width": width},
            marker={"color": colour, "size": 4},
            hoverinfo="skip",
        )
    for name in names:
        ends = marks(parameters[name])
        for at, text in ends if len(ends) <= 4 else (ends[0], ends[-1]):
            figure.add_annotation(
                x=name,
                y=at,
                text=canvas.plain(_short(text)),
                showarrow=False,
                xanchor="left",
                xshift=5,
                font={"size": 11, "color": GREY},
            )
    figure.update_xaxes(tickangle=-60 if len(names) > 6 else 0, showgrid=True)
    figure.update_xaxes(range=[-0.3, len(names) - 0.3], categoryorder="array", categoryarray=names)
    return figure.update_yaxes(visible=False, range=[-0.06, 1.06])


def pairs(trials: pd.DataFrame) -> pd.DataFrame:
    """What one setting alone does to the error: complete trials that agree in all other settings.

    `setting`, `value`, `other`, `n` (the pairs), `ratio` (geometric mean of the error with `value`
    over that with `other`), `low`, `high` (Student's interval of the mean, 95 %; NaN for a single
    pair), the most pairs first. `value` is the one with less error. Trials are compared with those
    of the same seed, so that every seed makes a pair of its own.
    """
    rows = ended(trials)
    rows = rows[rows["state"] == COMPLETE]
    errors = rows["val_mse"].astype(float).map(math.log)
    means = errors.groupby([rows["config"].astype(str), rows["seed"]]).mean()
    written = {text: _written(text) for text in means.index.unique("config")}
    settings = pd.DataFrame([{**written[text], "seed": seed} for text, seed in means.index])
    found = []
    for setting in map(str, settings.columns.difference(NOT_COMPARED)):
        if settings[setting].nunique() < 2:
            continue
        # Momentum means nothing but to SGD, of which each momentum is one more trial.
        own = [setting, "momentum"] if setting == "optimizer" else [setting]
        others = settings[settings.columns.difference(own)]
        group = pd.util.hash_pandas_object(others, index=False).to_numpy()
        frame = pd.DataFrame({"group": group, "value": settings[setting], "log": means.to_numpy()})
        frame = frame[frame["group"].duplicated(keep=False)]  # few of a long study's
        frame = frame.groupby(["group", "value"])["log"].mean().reset_index()  # in this order
        ratios: dict[tuple[str, str], list[float]] = {}
        for _, alike in frame.groupby("group"):
            each = zip(alike["value"].tolist(), alike["log"].tolist(), strict=True)
            for (value, log), (other, other_log) in itertools.combinations(each, 2):
                ratios.setdefault((value, other), []).append(log - other_log)
        found += [_effect(setting, *both, differences) for both, differences in ratios.items()]
    columns = ["setting", "value", "other", "n", "ratio", "low", "high"]
    return pd.DataFrame(found, columns=columns).sort_values(
        ["n", "ratio"], ascending=[False, True], ignore_index=True
    )


def _written(text: str) -> dict[str, str]:
    """The settings of a configuration as words; what mirrors the encoder says only that."""
    config = Config.model_validate_json(text)
    told = config.model_dump()
    mirrored = resolve({name: value for name, value in told.items() if name not in MIRRORS})
    for name in MIRRORS:
        if getattr(mirrored, name) == getattr(config, name):
            told[name] = "as the encoder"
    return {name: _brief(value) for name, value in told.items()}


def _brief(value: Any) -> str:
    """`max` where all stages say so, else `max stride`."""
    if isinstance(value, tuple):
        return word(value[0]) if len(set(value)) == 1 else " ".join(map(word, value))
    return word(value)


def _effect(
    setting: str, value: str, other: str, logs: list[float]
) -> tuple[str, str, str, int, float, float, float]:
    """A row of `pairs`."""
    mean, n = float(np.mean(logs)), len(logs)
    half = math.nan
    if n > 1:
        quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
        half = quantile * float(np.std(logs, ddof=1)) / math.sqrt(n)
    if mean > 0:
        mean, value, other = -mean, other, value
    ratio, low, high = (math.exp(at) for at in (mean, mean - half, mean + half))
    return setting, value, other, n, ratio, low, high


def pairs_figure(effects: pd.DataFrame, most: int = 24) -> go.Figure:
    """The ratio of each effect and its interval, those with the most pairs on top. Needs one."""
    rows = effects.head(most)[::-1]  # plotly begins at the bottom
    ratios = rows["ratio"]
    figure = canvas.figure("error, as a multiple of the other's", "")
    figure.add_scatter(
        x=ratios.tolist(),
        y=[canvas.plain(pair_name(row)) for row in rows.to_dict("records")],
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
        hovertext=[pair_words(row) for row in rows.to_dict("records")],
        hoverinfo="text",
        showlegend=False,
    )
    figure.add_vline(x=1, line={"color": VIOLET, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(ticksuffix="  ")
    return figure.update_layout(height=100 + 26 * len(rows))


def pair_name(effect: Mapping[Any, Any]) -> str:
    """`downsample: stride, not max`"""
    return f"{effect['setting']}: {effect['value']}, not {effect['other']}"


def pair_words(effect: Mapping[Any, Any]) -> str:
    """`0.93 times the error (0.90 to 0.97, 12 pairs)`"""
    n = effect["n"]
    between = "" if math.isnan(effect["low"]) else f"{effect['low']:.2f} to {effect['high']:.2f}, "
    return f"{effect['ratio']:.2f} times the error ({between}{n} pair{'s' * (n != 1)})"


def importance_sentence(weights: pd.DataFrame, n_trials: int) -> str | None:
    """The weightiest parameters, and on how many `weighed` trials that rests; None without
    weights."""
    if weights.empty:
        return None
    first = [
        f"{row['parameter']} ({100 * row['share']:.0f} % of the importance"
        + (f", drawn by {row['n']:,} trials alone)" if row["n"] < weights["n"].max() else ")")
        for row in weights.head(3).to_dict("records")
    ]
    n_best = math.ceil(BEST * n_trials)
    few = "; of so few a hint, no more" if n_best < 5 else ""
    verb = "says" if len(first) == 1 else "say"
    return (
        f"{listed(first)} {verb} most about which trials are among the best tenth "
        f"({counted(n_best, 'trial')} of {n_trials:,}{few})."
    )


def common_sentence(trials: pd.DataFrame, parameters: Parameters) -> str:
    """What all of the best tenth drew alike, and not all trials did, of the first `AXES`
    parameters."""
    ranked = ranking(ended(trials))
    n_best = math.ceil(BEST * len(ranked))
    alike = []
    for name, parameter in itertools.islice(parameters.items(), AXES):
        drawn = values(ranked, name, parameter)
        best = drawn.head(n_best)
        if best.notna().all() and best.nunique() == 1 < drawn.nunique():
            alike.append(f"{name} {word(best.iloc[0])}")
    who = "The best trial drew" if n_best == 1 else f"All of the best {n_best} trials drew"
    if not alike:
        return f"The best {counted(n_best, 'trial')} drew no value alike."
    return f"{who} {listed(alike)}."


def pairs_sentence(effects: pd.DataFrame) -> str:
    """The greatest effect that its interval tells from none, and how many pairs there are."""
    if effects.empty:
        return "No two complete trials differ in one setting alone, so nothing can be paired."
    n_pairs = int(effects["n"].sum())
    clear = effects[effects["high"] < 1].sort_values("ratio")
    verb = "differs" if n_pairs == 1 else "differ"
    said = f"{counted(n_pairs, 'pair')} of trials {verb} in one setting alone"
    if clear.empty:
        return f"{said}; no effect stands clear of chance."
    row = clear.iloc[0].to_dict()
    return f"{said}; the clearest effect is {pair_name(row)}: {pair_words(row)}."
