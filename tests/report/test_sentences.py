"""Every sentence of the report against the trials that it is about.

Random small studies; each sentence has to match a pattern as a whole, and every number in it is
computed again here, in plain Python from the made-up trials, without the package's tables.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_studies import TRIALS, Page, Trial, made_study

from raycae.config import resolve
from raycae.model.architecture import build_architecture
from raycae.report.page import render_report
from raycae.report.report_data import read_report_data
from raycae.report.section import Section
from raycae.report.sections import (
    answer,
    frontier_growth,
    latent_size,
    learning_curves,
)
from raycae.report.sections.answer import describe_frontier_answer
from raycae.report.sections.cost import describe_cost, select_cost_frontier
from raycae.report.sections.error_distribution import ErrorDistributionSection
from raycae.report.sections.importance import ImportanceSection
from raycae.report.sections.improvements import ImprovementsSection
from raycae.report.sections.latent_shape import describe_sides
from raycae.report.sections.search_health import SearchHealthSection
from raycae.report.trials import add_config_columns
from raycae.space import loading
from raycae.study import tables
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING

NUMBER = r"([\d,]+(?:\.\d+)?(?:e[+-]\d+)?)"
ERRORS = [0.0, 1e-12, 0.01, 0.01, 0.005, 0.0049999, 0.02, 0.3]
PARAMETERS = loading.parse_space(
    """
task: reconstruct
params:
  lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  batch_size: {type: categorical, choices: [16, 32, 64]}
  activation: {type: categorical, choices: [relu, silu]}
  latent_channels: {type: int, low: 1, high: 8}
""",
    name="s",
).parameters


class Study:
    """A random study: its trials as they were made, and what follows from them by hand."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.epochs = 4
        one_size, all_equal = chance.random() < 0.2, chance.random() < 0.1
        deep = chance.random() < 0.5
        self.trials: list[Trial] = []
        for _ in range(chance.choice([1, 1, 2, 3, 5, 12, 25, 60])):
            state = chance.choices([COMPLETE, PRUNED, FAIL, RUNNING], [6, 3, 1, 1])[0]
            length = {COMPLETE: 4, PRUNED: chance.choice([1, 1, 1, 2]), RUNNING: 2, FAIL: 0}[state]
            curve = [
                0.01
                if all_equal
                else chance.choice([*ERRORS, chance.lognormvariate(-5, 1), chance.random()])
                for _ in range(length)
            ]
            drawn = {
                "latent_channels": 4 if one_size else chance.choice([1, 2, 4, 8]),
                "lr": chance.choice([1e-4, 1e-3, 3e-3, 1e-2]),
                "batch_size": chance.choice([16, 32, 64]),
                "activation": chance.choice(["relu", "silu"]),
            }
            if deep and not one_size:
                drawn["depth"] = chance.choice([2, 3])
            reason = "diverged: loss is nan" if state == FAIL else None
            test = min(curve) * 1.1 if state == COMPLETE and chance.random() < 0.5 else None
            self.trials.append(Trial(curve, state, drawn, reason=reason, test_mse=test))
        if chance.random() < 0.5:
            self.trials[0].point = "base"
        levels = [("mean_colour", None, chance.choice([0.0, 0.05])), ("other", None, 0.07)]
        codes = [("pca", 64, chance.choice([0.0, 0.008])), ("pca_4x4", 256, 0.003)]
        kept = chance.choice([None, [], levels, codes, levels + codes])
        self.baselines = kept
        # From here on what follows.
        self.sizes = [build_architecture(resolve(t.settings)).latent_size for t in self.trials]
        self.shapes = [build_architecture(resolve(t.settings)).latent_shape for t in self.trials]
        self.error = [min(t.curve) if t.curve else None for t in self.trials]
        self.ended = [i for i, t in enumerate(self.trials) if t.state in (COMPLETE, PRUNED)]
        self.complete = [i for i in self.ended if self.trials[i].state == COMPLETE]
        self.keys = [json.dumps(t.settings, sort_keys=True) for t in self.trials]
        self.distinct = [
            i for i in self.ended if self.keys[i] not in [self.keys[j] for j in self.ended if j < i]
        ]

    def best(self) -> int | None:
        return min(self.complete, key=lambda i: (self.error[i], i), default=None)

    def front(self) -> list[int]:
        """Trials with less error than every other of at most their size, first of equals."""
        found: list[int] = []
        for i in sorted(self.ended, key=lambda i: (self.sizes[i], self.error[i], i)):
            if not found or self.error[i] < self.error[found[-1]]:  # type: ignore[operator]
                found.append(i)
        return found

    def pca(self, size: int) -> float | None:
        fitting = [e for name, k, e in self.baselines or [] if k is not None and k <= size]
        return min(fitting, default=None)


def shows(text: str, value: float) -> bool:
    """Whether a number is `value`, rounded to the digits that it has."""
    mantissa, _, exponent = text.replace(",", "").partition("e")
    digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return abs(float(text.replace(",", "")) - value) <= 0.5001 * 10.0**-digits


def require(pattern: str, text: str) -> tuple[Any, ...]:
    """The numbers in a sentence, which has to be like the pattern from beginning to end."""
    found = re.fullmatch(pattern, text)
    assert found, f"{text!r} is not like {pattern!r}"
    return found.groups()


def require_number_agrees(text: str) -> None:
    """One is singular, all else plural, wherever a sentence counts."""
    for count, thing in re.findall(r"\b(\d[\d,]*) (trial|configuration|pair|number)s?\b", text):
        is_plural = f"{count} {thing}s" in text
        assert is_plural == (count != "1"), text


def check_fall(text: str, first: float, last: float) -> None:
    if text == "to zero":
        assert last <= 1e-8
    elif text.startswith("by a factor of "):
        assert shows(text.removeprefix("by a factor of "), first / last)
        assert float(text.removeprefix("by a factor of ").replace(",", "")) > 1
    else:
        assert shows(*require(f"by {NUMBER} %", text), 100 * (1 - last / first))


def check_answer(study: Study, text: str) -> None:
    i = study.best()
    assert i is not None
    number, error, _, test, psnr, size, _ = require(
        f"Trial {NUMBER} has a validation error of {NUMBER}( \\({NUMBER} on the test images\\))? "
        f"and a mean PSNR of {NUMBER} dB\\. Its latent has {NUMBER} numbers? per image, and its "
        f"network has {NUMBER} parameters\\.",
        text,
    )
    value = study.error[i]
    assert value is not None
    assert int(number) == i
    assert shows(error, value)
    assert (test is None) == (study.trials[i].test_mse is None)
    assert test is None or shows(test, study.trials[i].test_mse or 0.0)
    assert shows(psnr, -10 * math.log10(max(value, 1e-10)))
    assert shows(size, study.sizes[i])


def check_latent(study: Study, text: str) -> None:
    front = study.front()
    sizes = {study.sizes[i] for i in study.ended}
    fall, compared = re.fullmatch(r"(.*?\.)(?: ([^;]*best PCA.*))?", text).groups()  # type: ignore[union-attr]
    last = study.error[front[-1]]
    assert last is not None
    if len(sizes) == 1:
        size, error = require(
            f"Every trial has a latent of {NUMBER} numbers?; the lowest error is {NUMBER}\\.", fall
        )
        assert shows(size, study.sizes[front[0]])
        assert shows(error, last)
    elif len(front) == 1:
        size, error = require(
            f"The smallest latent of all, {NUMBER} numbers?, also has the lowest error, "
            f"{NUMBER}\\.",
            fall,
        )
        assert shows(size, min(sizes))
        assert shows(error, last)
    else:
        low, high, before, after, how = require(
            f"From latent size {NUMBER} to {NUMBER}, the lowest error falls from {NUMBER} to "
            f"{NUMBER}, (.*)\\.",
            fall,
        )
        first = study.error[front[0]]
        assert first is not None
        assert shows(low, study.sizes[front[0]])
        assert shows(high, study.sizes[front[-1]])
        assert shows(before, first)
        assert shows(after, last)
        assert before != after
        check_fall(how, first, last)
    lines = [(study.error[i], study.pca(study.sizes[i])) for i in front]
    lines = [(e, line) for e, line in lines if line is not None and line > 1e-8]
    assert bool(lines) == bool(compared)
    if lines:
        n_below = sum(e < line for e, line in lines)  # type: ignore[operator]
        comparable = "" if len(lines) == len(front) else " with a comparable PCA"
        best = r" error than the best PCA of the same size or smaller\."
        if len(lines) == 1:
            less = "less" if n_below else "no less"
            require(f"The only trial on the Pareto front{comparable} has {less}{best}", compared)
            return
        below, n = require(
            f"(All|None of the|[\\d,]+ of the) {NUMBER} trials on the Pareto front{comparable} "
            f"(?:has|have) less{best}",
            compared,
        )
        assert int(n) == len(lines)
        share = f"{n_below or 'None'} of the"
        assert below == ("All" if n_below == len(lines) else share)


def check_comparison(study: Study, text: str | None) -> None:
    i = study.best()
    assert i is not None
    expected = []
    base = study.trials[0]
    own = study.error[i] or 0.0
    is_base = base.point == "base" and 0 in study.ended and i != 0
    if is_base and (study.error[0] or 0) > 1e-8:
        expected.append(own / study.error[0])  # type: ignore[operator]
    line = study.pca(study.sizes[i])
    if line is not None and line > 1e-8:
        expected.append(own / line)
    levels = {name: e for name, k, e in study.baselines or [] if k is None}
    if levels.get("mean_colour", 0) > 0:
        expected.append(own / levels["mean_colour"])
    factors = re.findall(f"{NUMBER} times that of", text or "")
    assert len(factors) == len(expected), text
    assert all(shows(f, value) for f, value in zip(factors, expected, strict=True)), text
    zero = text is not None and "The error of the mean colour is 0 on these images." in text
    assert zero == (levels.get("mean_colour") == 0)
    assert ("The error of the space's base configuration is 0." in (text or "")) == (
        is_base and (study.error[0] or 0) <= 1e-8
    )
    assert ("The best trial is the space's base configuration." in (text or "")) == (
        i == 0 and base.point == "base"
    )
    assert ("The error of PCA of that latent size is 0." in (text or "")) == (line == 0)


def check_sides(study: Study, text: str | None) -> None:
    wins, n, n_tied, expected = 0, 0, 0, 0.0
    for size in {study.sizes[i] for i in study.distinct}:
        there = [i for i in study.distinct if study.sizes[i] == size]
        widths = {i: study.shapes[i][1] * study.shapes[i][2] for i in there}
        wide = [i for i in there if widths[i] == max(widths.values())]
        rest = [i for i in there if i not in wide]
        if not rest:
            continue
        best, other = (min(study.error[i] for i in group) for group in (wide, rest))  # type: ignore[type-var]
        if best == other:
            n_tied += 1
            continue
        n, wins, expected = n + 1, wins + (best < other), expected + len(wide) / len(there)  # type: ignore[operator]
    if not n:
        assert (text is None) == (n_tied == 0)
        return
    assert text is not None
    won, of, chance, _ = require(
        "The shape with the largest spatial size and the fewest channels has the lowest error at "
        f"(none|[\\d,]+) of {NUMBER} latent sizes? with more than one shape; chance would give "
        f"{NUMBER}\\. (So neither spatial size nor channels stand out\\.|Spatial size helps more "
        "than channels here\\.|Channels help more than spatial size here\\.)",
        text,
    )
    assert won == (str(wins) if wins else "none")
    assert int(of) == n
    assert shows(chance, expected)


def check_curves(study: Study, text: str | None) -> None:
    stopped = [len(t.curve) for t in study.trials if t.state == PRUNED and t.curve]
    with_curve = [t for t in study.trials if t.curve]
    if text is None:
        assert study.best() is None
        assert not stopped
        assert len(with_curve) <= 30
        return
    rest = text
    i = study.best()
    if i is not None:
        curve = study.trials[i].curve
        said, rest = re.split(r"(?<=\.)(?: |$)", rest, maxsplit=1)
        lowest = curve.index(min(curve))
        if lowest < len(curve) - 1:
            epoch, of = require(
                f"The best trial had its lowest error in epoch {NUMBER} of {NUMBER}\\.", said
            )
            assert (int(epoch), int(of)) == (lowest + 1, study.epochs)
        else:
            epoch, gain = require(
                "The best trial (?:was still improving|hardly improved any more) when it ended: "
                f"its last epoch, {NUMBER}, reduced the error by {NUMBER} %\\.",
                said,
            )
            is_small = curve[-1] > 0.999 * min(curve[:-1])
            assert ("hardly improved" in said) == is_small
            assert int(epoch) == len(curve)
            assert shows(gain, 100 * (1 - curve[-1] / min(curve[:-1])))
    if stopped:
        said, _, rest = rest.partition(".")
        if len(stopped) == 1:
            (epoch,) = require(f"1 trial was stopped early, after epoch {NUMBER}", said)
            assert int(epoch) == stopped[0]
        elif len(set(stopped)) == 1:
            n, epoch = require(
                f"{NUMBER} trials were stopped early, all after epoch {NUMBER}", said
            )
            assert (int(n), int(epoch)) == (len(stopped), stopped[0])
        else:
            n, some, epoch = require(
                f"{NUMBER} trials were stopped early, {NUMBER} of them by epoch {NUMBER}", said
            )
            assert int(n) == len(stopped)
            assert int(some) == sum(e <= int(epoch) for e in stopped)
            assert 0 < int(some) < len(stopped)
    if len(with_curve) > 30:
        drawn, n = require(
            f"{NUMBER} of {NUMBER} trials are drawn, taken evenly from the best to the worst\\.",
            rest.strip(),
        )
        assert (int(drawn), int(n)) == (30, len(with_curve))
    else:
        assert not rest.strip(), rest


def check_health(study: Study, section: SearchHealthSection) -> None:
    over = [t for t in study.trials if t.state != RUNNING]
    failed = sum(t.state == FAIL for t in over)
    if failed:
        n, of, share = require(
            f"{NUMBER} of {NUMBER} trials? failed \\({NUMBER}%\\)\\.", section.failed
        )
        assert (int(n), int(of)) == (failed, len(over))
        assert shows(share, 100 * failed / len(over))
    else:
        assert section.failed == "No trial failed."
    again = len(study.trials) - len(set(study.keys))
    if again:
        (n,) = require(
            f"An earlier configuration was repeated by {NUMBER} trials? with the same seed\\.",
            section.duplicates,
        )
        assert int(n) == again
    else:
        assert section.duplicates == "No configuration ran twice."
    (n,) = (
        require(
            "No range has its best trials at an end more often than chance explains "
            f"\\({NUMBER} configurations?\\)\\.",
            section.edges or "",
        )
        if (section.edges or "").startswith("No")
        else (len(study.distinct),)
    )
    assert int(n) == len(study.distinct)
    check_improvements(study, section.improvements)


def check_improvements(study: Study, section: ImprovementsSection) -> None:
    ended = [i for i, t in enumerate(study.trials) if t.state != RUNNING]  # in this order
    better: list[int] = []
    for i in ended:
        if i in study.complete and (not better or study.error[i] < study.error[better[-1]]):  # type: ignore[operator]
            better.append(i)
    total = sum(2.5 * len(study.trials[i].curve) for i in range(len(study.trials)))
    if not total:
        assert section.cost_sentence is None
    else:
        spent = 2.5 * sum(len(study.trials[i].curve) for i in ended if better and i <= better[-1])
        cost = section.cost_sentence or ""
        assert re.match(r"Epochs took [\d.]+ (s|min|h), summed over workers", cost)
        assert ("best trial" in cost) == bool(better)
        if better:
            (share,) = re.findall(r"The best trial ended after ([\d.]+) % of this time\.", cost)
            assert shows(share, 100 * spent / total)
        assert ("Between the previous best trial and this one" in cost) == (len(better) > 1)
    text = section.sentence
    if not better:
        assert text is None
        return
    after = len(ended) - ended.index(better[-1]) - 1
    if len(better) == 1 and not after:
        (number,) = require(
            f"The first complete trial, {NUMBER}, is the last trial that ended\\.", text
        )
        assert int(number) == better[0]
    elif len(better) == 1:
        number, n = require(
            f"The first complete trial, {NUMBER}, was never improved on by the {NUMBER} trials? "
            "that ended after it\\.",
            text,
        )
        assert (int(number), int(n)) == (better[0], after)
    else:
        first, last, n, number, place, of, gain = require(
            f"The lowest error fell from {NUMBER} to {NUMBER} in {NUMBER} improvements?\\. The "
            f"last improvement was trial {NUMBER}, after [\\d.]+ (?:s|min|h), when {NUMBER} of "
            f"{NUMBER} trials? had ended\\. It reduced the error by {NUMBER} %\\. No configuration "
            "was run to the end with several seeds, so the report cannot tell improvements from "
            "seed noise\\.",
            text,
        )
        errors = [study.error[i] or 0.0 for i in better]
        assert first != last
        assert shows(first, errors[0])
        assert shows(last, errors[-1])
        assert (int(n), int(number)) == (len(better) - 1, better[-1])
        assert (int(place), int(of)) == (ended.index(better[-1]) + 1, len(ended))
        assert shows(gain, 100 * (1 - errors[-1] / errors[-2]))


def check_mattered(study: Study, section: ImportanceSection) -> None:
    n = len(study.distinct)
    if n < 50:
        (told,) = require(
            "Parameters are not ranked yet\\. Ranking needs 50 different configurations with a "
            f"measured error; this study has {NUMBER}\\.",
            section.sentence,
        )
        assert int(told) == n
        assert not section.slices.is_ranked
    n_best = math.ceil(0.1 * n)
    common = section.slices.common_sentence
    if common.startswith("Of "):
        best = "best has" if n_best == 1 else f"best {n_best} share"
        (of,) = require(
            f"Of {NUMBER} configurations?, the {best} no value that stands out from chance\\.",
            common,
        )
        assert int(of) == n
    else:
        assert common.startswith("All of the best")
    ranked = sorted(study.distinct, key=lambda i: (study.error[i], i))
    for name, caption, drawn in section.slices.slices:
        values = [study.trials[i].settings[name] for i in ranked][:n_best]
        assert drawn == len(study.ended)
        head, _, there = caption.partition(": ")
        assert head == ("best" if n_best == 1 else f"best {n_best}")
        if name == "activation":
            assert there == " and ".join(x for x in ("relu", "silu") if x in values)
        elif name == "batch_size":
            words = [str(x) for x in (16, 32, 64) if x in values]
            assert re.split(", | and ", there) == words
        else:
            ends = re.split(" to ", there)
            assert shows(ends[0], min(values))
            assert shows(ends[-1], max(values))
            assert len(ends) == 1 + (min(values) != max(values))
    check_pairs(study, section.single_changes.sentence)


def check_pairs(study: Study, text: str) -> None:
    runs: dict[str, int] = {}
    for i in sorted(study.ended, key=lambda i: (study.trials[i].state, i)):
        runs.setdefault(study.keys[i], i)
    effects_found: Counter[tuple[str, str]] = Counter()
    n_early = 0
    for key, i in runs.items():
        for other, j in runs.items():
            a, b = study.trials[i].settings, study.trials[j].settings
            apart = [name for name in a if a[name] != b[name]]
            # Another depth is also another list of channels, so two settings.
            if key < other and len(apart) == 1 and apart != ["depth"]:
                both = sorted([str(a[apart[0]]), str(b[apart[0]])])
                effects_found[apart[0], "/".join(both)] += 1
                n_early += not {i, j} <= set(study.complete)
    n = sum(effects_found.values())
    if not n:
        assert text == "No two trials differ in one setting alone, so there is nothing to pair."
        return
    told, *_ = require(f"{NUMBER} pairs? of trials differs? in one setting alone\\..*", text)
    assert int(told) == n
    early = re.findall(f"{NUMBER} of them (?:is|are) compared at the epoch", text)
    assert [int(x) for x in early] == ([n_early] if n_early else [])
    most = re.findall(f"the largest number is {NUMBER}\\.", text)
    top = max(effects_found.values())
    assert [int(x) for x in most] == ([top] if top < 5 else [])
    tested = re.findall(f"None of the {NUMBER} effects with at least 5 pairs", text)
    assert all(int(x) == sum(c >= 5 for c in effects_found.values()) for x in tested)


def check_distribution(study: Study, section: ErrorDistributionSection | None) -> None:
    ordered = sorted(study.error[i] or 0.0 for i in study.ended)
    assert (section is None) == (len(ordered) < 10)
    if section is None:
        return
    n, n_best, best, n_half, half = require(
        f"Of the {NUMBER} trials with a measured validation error, {NUMBER} ha(?:s|ve) an error of "
        f"at most {NUMBER}, and {NUMBER} of at most {NUMBER}\\.",
        section.sentence,
    )
    assert int(n) == len(ordered)
    assert int(n_best) == math.ceil(len(ordered) / 10)
    assert int(n_half) == math.ceil(len(ordered) / 2)
    assert shows(best, ordered[int(n_best) - 1])
    assert shows(half, ordered[int(n_half) - 1])


def check_frontier(study: Study, latent: Any, ranked: list[Any], trials: Any) -> None:
    if not study.ended:
        return
    front = study.front()
    text = describe_frontier_answer(latent, ranked)
    sizes = [study.sizes[i] for i in front]
    n, *ends = re.findall(r"\b\d[\d,]*\b", text.partition(" per image")[0])
    assert int(n) == len(front)
    assert [int(x.replace(",", "")) for x in ends] == sorted({min(sizes), max(sizes)})
    lines = [(i, study.pca(study.sizes[i])) for i in front]
    ratios = [
        (study.sizes[i], (study.error[i] or 0.0) / line)
        for i, line in lines
        if line is not None and line > 1e-8
    ]
    kinds = {"lower": [], "about the same (within 2 %)": [], "higher": []}
    for size, ratio in ratios:
        near = 0.975 < ratio < 1.025
        kinds["about the same (within 2 %)" if near else "lower" if ratio < 1 else "higher"].append(
            (size, ratio)
        )
    if not (kinds["lower"] or kinds["about the same (within 2 %)"]):
        assert ("PCA of the same size or smaller is better." in text) == bool(ratios)
        kinds["higher"] = []
    told = text.partition("On the test images")[0]
    for kind, own in kinds.items():
        part = re.split(" (?:lower|about the same \\(within 2 %\\)|higher) at ", told)
        names = re.findall(" (lower|about the same \\(within 2 %\\)|higher) at ", told)
        assert (kind in names) == bool(own), text
        if not own:
            continue
        found = re.findall(
            f"{NUMBER}(?: numbers?)? \\({NUMBER}(?: times)?\\)", part[1 + names.index(kind)]
        )
        assert len(found) == len(own), text
        for (size_, times), (own_size, own_times) in zip(found, own, strict=True):
            assert shows(size_, own_size)
            assert shows(times, own_times)
    grown = frontier_growth.compute_growth(trials, latent, "latent_size")
    if grown is None:
        return
    levels = [e for _, k, e in study.baselines or [] if k is None]
    worst = max(levels, default=0.0) or max(study.error[i] or 0.0 for i in study.ended)
    bounds = [study.sizes[i] for i in study.ended]
    low, high = min(bounds), 2 * max(bounds)
    steps = [*sizes, high]
    area = sum(
        math.log(steps[k + 1] / max(steps[k], low))
        * max(0.0, math.log10(worst / max(study.error[i] or 0.0, 1e-8)))
        for k, i in enumerate(front)
    )
    height = area / math.log(high / low)
    # Errors below 1e-8 count as equal there, so only the smallest such latent is on the front.
    errors = [max(study.error[i] or 0.0, 1e-8) for i in front]
    kept = [k for k in range(len(front)) if k == 0 or errors[k] < errors[k - 1]]
    steps = [*(sizes[k] for k in kept), high]
    by_pca = [(n, lines[k][1]) for n, k in enumerate(kept) if lines[k][1] is not None]
    area = sum(
        math.log(steps[n + 1] / max(steps[n], low)) * max(0.0, math.log10(worst / max(line, 1e-8)))
        for n, line in by_pca
        if line is not None
    )
    pca = area / math.log(high / low)
    is_baseline = max(levels, default=0.0) > 0
    reference = "error of the worst trivial baseline" if is_baseline else "worst trial's error"
    error, at, to, factor, decades, pca_factor = require(
        f"The reference is the {reference}, {NUMBER}\\. From {NUMBER} to {NUMBER} \\(latent "
        "size\\), the error of the Pareto front is on average \\(geometric mean\\) a factor of "
        f"{NUMBER} below the reference\\. On logarithmic axes, this is a hypervolume of {NUMBER} "
        "decades\\.(?: At the latent sizes of this front, the best PCA of the same size or smaller "
        f"is a factor of {NUMBER} below the reference\\.)?",
        frontier_growth.describe_growth(grown, "latent_size"),
    )
    assert shows(factor, 10**height)
    assert shows(decades, height)
    assert (pca_factor is None) == (not by_pca)
    if pca_factor:
        assert shows(pca_factor, 10**pca)
    assert shows(error, worst)
    assert shows(at, low)
    assert shows(to, high)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
@example(39267)  # two errors of practically zero on the front
def test_every_number_in_every_sentence(seed: int) -> None:
    """Oracle: the module's docstring."""
    study = Study(seed)
    with tempfile.TemporaryDirectory() as folder:
        made_study(Path(folder), study.trials, baselines=study.baselines, epochs=study.epochs)
        data = read_report_data(Path(folder))
    trials, epochs, latent = data.trials, data.epochs, data.latent
    for name in PARAMETERS:
        trials[f"params_{name}"] = [t.settings[name] for t in study.trials]
    data = dataclasses.replace(data, parameters=PARAMETERS)
    ranked, best = data.ranked, data.best
    assert (best and best["trial_number"]) == study.best()
    mattered = ImportanceSection.build(data)
    health = SearchHealthSection.build(data)
    assert health is not None
    curves = learning_curves.describe_curves(
        learning_curves.select_learning_curves(trials, epochs), study.epochs
    )
    sides = describe_sides(trials)
    fall = latent_size.describe_latent_error(latent)
    if best:
        check_answer(study, answer.describe_answer(best))
        check_comparison(study, answer.describe_comparison(best, ranked, latent))
    assert (fall is None) == (not study.ended)
    if fall:
        check_latent(study, fall)
    check_sides(study, sides)
    check_curves(study, curves)
    check_health(study, health)
    assert (mattered is None) == (not study.ended)
    if mattered:
        check_mattered(study, mattered)
    check_frontier(study, latent, ranked, trials)
    check_distribution(study, ErrorDistributionSection.build(data))
    sections: list[Section] = [health, health.improvements]
    sections += [mattered, mattered.slices, mattered.single_changes] if mattered else []
    texts = [curves, sides, fall, *(text for each in sections for text in vars(each).values())]
    for text in texts:
        if isinstance(text, str):
            require_number_agrees(text)


def test_a_study_of_zeros_has_a_page(tmp_path: Path) -> None:
    """Oracle: by hand. Grey pictures: the error of a grey copy is 0, and so is the best trial's;
    both are measured, and no figure or factor trips over them."""
    trials = [Trial([0.001, 0.0], settings={"latent_channels": 1}), Trial([0.002, 0.0005])]
    trials += [Trial([0.0], PRUNED, {"latent_channels": 2})]
    levels: list[tuple[str, int | None, float]] = [
        (name, None, 0.0) for name in ("grey_copy", "mean_chroma", "luma_function")
    ]
    folder = made_study(tmp_path / "s", trials, task="colourise", baselines=levels)
    text = Page(render_report(folder)).text
    assert "have not been measured" not in text
    assert "The error of the grey copy and the mean chroma is 0 on these images." in text
    assert "Trial 0 has a validation error of 0 and a mean PSNR" in text
    asked = {"objective": "frontier"}
    folder = made_study(tmp_path / "f", trials, baselines=levels, asked=asked, task="colourise")
    assert (
        "The Pareto front has 1 trial, with latents of 64 numbers per image."
        in Page(render_report(folder)).text
    )


@pytest.mark.parametrize("cost", ["n_params", "flops"])
def test_a_frontier_of_another_cost(tmp_path: Path, cost: str) -> None:
    """Oracle: the columns of the table."""
    folder = made_study(tmp_path / "s", TRIALS)
    trials = tables.read_trials(folder)
    front = select_cost_frontier(add_config_columns(trials), cost)
    text = describe_cost(front, cost)
    before, low, after, high, times, factor = require(
        f"The lowest error falls from {NUMBER} \\(.*: {NUMBER}\\) to {NUMBER} \\({NUMBER}\\): "
        f"{NUMBER} times the cost reduces it by a factor of {NUMBER}\\.",
        text,
    )
    costs, errors = front[cost].tolist(), front["val_mse"].tolist()
    assert shows(before, errors[0])
    assert shows(after, errors[-1])
    assert shows(factor, errors[0] / errors[-1])
    assert shows(times, costs[-1] / costs[0])
    assert abs(float(low.replace(",", "")) / costs[0] - 1) < 1e-3
    assert abs(float(high.replace(",", "")) / costs[-1] - 1) < 1e-3
