"""What mattered in a study: the importance of each parameter.

A *parameter* is what the space leaves open and a sampler draws, such as `lr`. A *setting* is a
field of `config.Config`, searched or not.

A study has many parameters and few trials, so some parameter always looks important. A sentence
singles something out only if that is unlikely to be chance; see `significance.LEVEL`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import join_words
from raycae.report import plotting
from raycae.report.ped_anova import assign_cells, compute_divergences
from raycae.report.plotting import BLUE, GREY, ORANGE
from raycae.report.report_data import ReportData
from raycae.report.sampled_values import BEST, Parameters, split_into_parts
from raycae.report.section import Section
from raycae.report.sections.parameter_maps import ParameterMapsSection
from raycae.report.sections.single_changes import CONFIDENCE, SingleChangesSection
from raycae.report.sections.slices import (
    SlicesSection,
)
from raycae.report.significance import LEVEL, compute_chance_of_marked
from raycae.report.similar_cost import FEWEST_SIMILAR, SIMILAR, compute_relative_ranks
from raycae.report.trials import select_distinct

FEWEST_RANKED = 50
"""Configurations with a measured error below which parameters are not ranked."""
FEWEST_DRAWN = 10
"""Configurations with a measured error below which the error is not drawn over parameters."""
MOST_RANKED = 2000
"""Configurations that importance is computed on; more of them take longer to say the same."""
N_BOOTSTRAPS = 200
"""Resampled sets of trials behind the intervals of importance."""


def select_weighed(trials: pd.DataFrame) -> pd.DataFrame:
    """Select the trials that importance rests on.

    Args:
        trials: Trials in any state.

    Returns:
        The first trial of each configuration with a measured error, in their order, thinned
        evenly to at most `MOST_RANKED`.
    """
    rows = select_distinct(trials)
    return rows.iloc[:: max(1, math.ceil(len(rows) / MOST_RANKED))]


def compute_importance(
    trials: pd.DataFrame,
    parameters: Parameters,
    target: str = "val_mse",
    cost: str | None = None,
) -> pd.DataFrame:
    """Rank parameters by how much they say about which trials are among the best tenth.

    The method is PED-ANOVA: the Pearson divergence between what the best tenth of the trials drew
    and what all of them drew. The report and the dashboard both show the numbers of this function.
    fANOVA is not used, because it needs parameters that every trial has. PED-ANOVA weighs a
    conditional parameter within the trials that drew it, and is cheap enough to be repeated. Trials
    that were stopped early count with the error they had. Of repeated configurations, the first
    trial counts.

    Args:
        trials: Trials in any state.
        parameters: The searched parameters.
        target: The column that is better when smaller.
        cost: The second objective of a search for a Pareto front. The best tenth is then that of
            trials of similar cost; see `compute_relative_ranks`. Otherwise what sets the latent
            size would matter most, because latent size is the other axis.

    Returns:
        One row per parameter, the largest share first: `parameter`; `share` of the importance, 0 to
        1, with sum 1; `low` and `high`, its bootstrap interval (`CONFIDENCE`); `first`, the share
        of the bootstrap samples in which no other parameter has more; `p`, see `_compute_chances`;
        `n`, the configurations that drew it. Empty below `FEWEST_RANKED` configurations that ended
        with an error, or if no parameter has any importance.

    Source: Watanabe et al., PED-ANOVA (IJCAI 2023), and its conditional form in Optuna 5, which
        gives
    the same numbers.
    """
    columns = ["parameter", "share", "low", "high", "first", "p", "n"]
    rows = select_weighed(trials)
    cells = {name: assign_cells(rows, name, parameter) for name, parameter in parameters.items()}
    cells = {name: column for name, column in cells.items() if (column[0] >= 0).any()}
    if len(rows) < FEWEST_RANKED or not cells:
        return pd.DataFrame(columns=columns)
    random = np.random.default_rng(0)
    n = len(rows)
    errors = rows[target].to_numpy(float)
    if cost is not None:
        ranks = compute_relative_ranks(rows, cost, target)
        # Trials of different groups share ranks. Without their order there is no best tenth.
        errors = np.lexsort((rows["trial_number"].to_numpy(int), ranks)).argsort().astype(float)
    as_drawn = np.arange(n)[None]
    samples = random.integers(n, size=(N_BOOTSTRAPS, n))
    found, again = (
        np.stack([compute_divergences(column, order, errors[order]) for column in cells.values()])
        for order in (as_drawn, samples)
    )  # each (parameters, repetitions)
    if not found.sum():
        return pd.DataFrame(columns=columns)
    shares = again / np.maximum(again.sum(axis=0), 1e-300)
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    frame = pd.DataFrame(
        {
            "parameter": list(cells),
            "share": (found / found.sum())[:, 0],
            "low": low,
            "high": high,
            "first": (again >= again.max(axis=0)).mean(axis=1),
            "p": _compute_chances(rows.assign(target=errors), parameters, list(cells)),
            "n": [int((column[0] >= 0).sum()) for column in cells.values()],
        }
    )
    return frame.sort_values(["share", "parameter"], ascending=[False, True], ignore_index=True)


def _compute_chances(rows: pd.DataFrame, parameters: Parameters, names: list[str]) -> list[float]:
    """Compute how likely it is by chance that a parameter seems to matter as much as it does.

    PED-ANOVA gives some parameter a large share of the importance also where nothing matters. Under
    chance the best tenth is a random choice of the trials; so the number of them in a part of a
    parameter (a choice, or a third of a range) is hypergeometric.

    Args:
        rows: Trials, with their error as `target`.
        parameters: What was searched.
        names: The parameters to look at.

    Returns:
        The least probability of as many of the best tenth in any part of each parameter, times the
        number of parts of all parameters (Bonferroni); at most 1.
    """
    n_best = math.ceil(BEST * len(rows))
    best = rows.sort_values(["target", "trial_number"]).index[:n_best]
    least, n_parts = [], 0
    for name in names:
        drawn = split_into_parts(rows, name, parameters[name])
        counts, best_counts = drawn.value_counts(), drawn[drawn.index.isin(best)].value_counts()
        n_parts += len(counts)
        tails = [
            compute_chance_of_marked(len(rows), int(n), n_best, int(best_counts.get(part, 0)))
            for part, n in counts.items()
        ]
        least.append(min(tails))
    return [min(1.0, chance * n_parts) for chance in least]


def draw_importance(weights: pd.DataFrame) -> go.Figure:
    """Draw a bar with its interval for each parameter, the largest on top.

    Args:
        weights: What `compute_importance` returns, at least one row.
    """
    rows = weights[::-1]  # plotly begins at the bottom
    figure = plotting.make_figure("share of the importance", "")
    figure.add_bar(
        x=rows["share"].tolist(),
        y=rows["parameter"].tolist(),
        orientation="h",
        marker={"color": [BLUE if p <= LEVEL else GREY for p in rows["p"]]},
        error_x={
            "type": "data",
            # A bootstrap interval need not hold the share itself.
            "array": (rows["high"] - rows["share"]).clip(lower=0).tolist(),
            "arrayminus": (rows["share"] - rows["low"]).clip(lower=0).tolist(),
            "color": ORANGE,
            "thickness": 1,
            "width": 3,
        },
        hovertext=[
            f"{row['parameter']}: {row['share']:.0%} ({row['low']:.0%} to {row['high']:.0%}), "
            f"used by {row['n']:,} configurations"
            for row in rows.to_dict("records")
        ],
        hoverinfo="text",
        showlegend=False,
    )
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(showgrid=False, ticksuffix="  ")
    return figure.update_layout(height=90 + 24 * len(rows))


def describe_importance(weights: pd.DataFrame, n: int, cost: str | None = None) -> str:
    """Name the parameter that matters most, or say why none can be named.

    Args:
        weights: What `compute_importance` returns.
        n: The number of trials of `select_weighed`.
        cost: The cost at which trials were compared, as in `compute_importance`.
    """
    goal = "the best tenth" if cost is None else f"the best tenth at {SIMILAR[cost]}"
    if n < FEWEST_RANKED:
        return (
            f"Parameters are not ranked yet. Ranking needs {FEWEST_RANKED} different "
            f"configurations with a measured error; this study has {n}."
        )
    clear = weights[weights["p"] <= LEVEL]
    if clear.empty:
        return (
            f"No parameter stands out from chance among {n:,} configurations, so none is called "
            "important."
        )
    names = clear["parameter"].tolist()
    first = clear.iloc[0]
    share = f"{first['share']:.0%} ({first['low']:.0%} to {first['high']:.0%})"
    if first["first"] >= CONFIDENCE:
        text = (
            f"{names[0]} matters most for reaching {goal}: its share of the importance is {share}."
        )
        verb = "stands" if len(names) == 2 else "stand"
        return f"{text} {join_words(names[1:])} {verb} out from chance, too." if names[1:] else text
    if len(names) == 1:
        return (
            f"Of all parameters only {names[0]} stands out from chance, so it matters for reaching "
            f"{goal}; its share of the importance is {share}."
        )
    return (
        f"{join_words(names)} matter for reaching {goal}. Which of these {len(names)} "
        f"matters most is not settled by {n:,} configurations."
    )


@dataclass(frozen=True, kw_only=True)
class ImportanceSection(Section):
    """What mattered: the importance of parameters, each parameter, and single changes."""

    template = "sections/importance.html.j2"
    sentence: str
    n_searched: int
    similar: str | None
    """The cost at which trials are compared, in words; None if all are compared."""
    fewest_drawn: int | None
    """Number of configurations that the figures need; None if the study has enough."""
    slices: SlicesSection
    maps: ParameterMapsSection
    single_changes: SingleChangesSection

    @classmethod
    def build(cls, data: ReportData) -> ImportanceSection | None:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section; None if no trial has a measured error.
        """
        if data.latent.points.empty:
            return None
        n = len(select_weighed(data.trials))
        # Fewer trials would be one group, of any cost.
        cost = data.cost if data.is_frontier and n >= 2 * FEWEST_SIMILAR else None
        weights = compute_importance(data.trials, data.parameters, cost=cost)
        ordered = list(dict.fromkeys([*weights["parameter"], *data.parameters]))
        parameters = {name: data.parameters[name] for name in ordered}
        drawn = parameters if n >= FEWEST_DRAWN else {}
        slices = SlicesSection.build_ordered(data, drawn, cost, is_ranked=not weights.empty)
        maps = ParameterMapsSection.build_ordered(data, parameters, cost)
        changes = SingleChangesSection.build(data)
        bars = {} if weights.empty else {"importance": draw_importance(weights)}
        return cls(
            figures={**bars, **slices.figures, **maps.figures, **changes.figures},
            sentence=describe_importance(weights, n, cost),
            n_searched=len(parameters),
            similar=None if cost is None else SIMILAR[cost],
            fewest_drawn=FEWEST_DRAWN if n < FEWEST_DRAWN else None,
            slices=slices,
            maps=maps,
            single_changes=changes,
        )
