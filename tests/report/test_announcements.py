"""What the report singles out: nothing on pages of noise, and what is there on pages of effects.

Oracle of all: how the pages were made. On pages of noise every statement is false; by the design of
`figures.LEVEL` one in 120 of them may make one, by each sentence.
"""

from __future__ import annotations

import pytest
from noise import NOISE, SPACES, announced, made_page, reshuffled

from raycae.report.sections import importance, search_health, single_changes, slices
from raycae.report.sections.latent_shape import count_wider_is_better
from raycae.report.significance import LEVEL

N_DESIGNS = 5
N_SHUFFLES = 40
MOST = 6
"""False statements on 200 pages: 1.7 are to be expected, seven or more have a chance of 0.2 %, and
5 % would be ten."""


def test_pairs_of_noise_show_no_effect() -> None:
    """Oracle: see above. Each page has effects with enough pairs to be tested."""
    n_false = n_tested = 0
    for design in range(N_DESIGNS):
        page = made_page(design, n=60, noise=NOISE[design % len(NOISE)])
        for shuffle in range(N_SHUFFLES):
            trials, epochs, _ = reshuffled(page, shuffle)
            found = single_changes.compare_single_changes(trials, epochs)
            n_tested += int((found["n"] >= single_changes.FEWEST_PAIRS).sum())
            n_false += "clearest" in single_changes.describe_single_changes(found)
    assert n_tested > 5 * N_DESIGNS * N_SHUFFLES
    assert n_false <= MOST


@pytest.mark.long
def test_values_and_edges_and_shapes_of_noise_stand_out_for_nothing() -> None:
    """Oracle: see above, for each of the three sentences."""
    n_false = {"common": 0, "edges": 0, "shapes": 0}
    for design in range(N_DESIGNS):
        page = made_page(design, kind="ranges", n=60, noise=NOISE[design % len(NOISE)])
        for shuffle in range(N_SHUFFLES):
            trials, _, parameters = reshuffled(page, shuffle)
            said = slices.describe_common_choices(trials, parameters)
            n_false["common"] += said.startswith("All of the best")
            n_false["edges"] += not search_health.find_edges(trials, parameters).empty
            n_false["shapes"] += count_wider_is_better(trials).p <= LEVEL
    assert max(n_false.values()) <= MOST, n_false


@pytest.mark.long
def test_no_parameter_of_noise_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: see above, on 100 pages. Intervals are not looked at."""
    monkeypatch.setattr(importance, "N_BOOTSTRAPS", 1)
    n_false = 0
    for design in range(N_DESIGNS):
        page = made_page(design, kind="ranges", n=70, noise=NOISE[design % len(NOISE)])
        for shuffle in range(N_SHUFFLES // 2):
            trials, _, parameters = reshuffled(page, shuffle)
            weights = importance.compute_importance(trials, parameters)
            n_false += bool((weights["p"] <= LEVEL).any())
    assert n_false <= 4  # more have a chance of 0.2 %


@pytest.mark.long
@pytest.mark.parametrize("kind", SPACES)
def test_pages_of_noise_single_nothing_out(kind: str) -> None:
    """Oracle: see above, for whole pages: 5 % at most, of 100 pages."""
    pages = [announced(*made_page(seed, kind=kind, n=60)) for seed in range(100)]
    assert sum(map(bool, pages)) <= 5


def test_strong_effects_are_named() -> None:
    """Oracle: the error is halved by one value, with noise of 10 %; nearly every page says so."""
    n_pairs = n_common = n_weights = 0
    for seed in range(6):
        trials, epochs, parameters = made_page(seed, n=140, factors={("kernel", 5): 0.5})
        sentence = single_changes.describe_single_changes(
            single_changes.compare_single_changes(trials, epochs)
        )
        n_pairs += "The clearest effect is that of kernel: 5 has 0." in sentence
        common = slices.describe_common_choices(trials, parameters)
        n_common += common.startswith("All of the best") and "kernel 5" in common
        trials, _, parameters = made_page(
            seed, kind="ranges", n=120, factors={("optimizer", "adam"): 0.3}
        )
        weights = importance.compute_importance(trials, parameters)
        said = importance.describe_importance(weights, len(importance.select_weighed(trials)))
        n_weights += "optimizer" in said
    assert n_pairs >= 5
    assert n_weights >= 5
    assert n_common >= 3
