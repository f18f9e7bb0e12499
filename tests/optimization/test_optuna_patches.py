"""Optuna's private function that raycae replaces."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from optuna.samplers._tpe import _truncnorm
from scipy.special import log_ndtr

from raycae.optimization import samplers
from raycae.optimization.optuna_patches import apply_optuna_patches
from raycae.optimization.proposer import Proposer
from raycae.space import loading

OPTUNAS = np.frompyfunc(_truncnorm._log_ndtr_single, 1, 1)
"""What `_truncnorm._log_ndtr` computes in Optuna, number by number."""


def test_the_values_are_optunas() -> None:
    """Oracle: Optuna's own function of one number, over all that a likelihood can need. It fails if
    Optuna renames what is replaced."""
    numbers = np.concatenate([np.linspace(-60, 10, 7001), -np.logspace(1, 5, 50)])
    apply_optuna_patches()
    assert _truncnorm._log_ndtr is log_ndtr
    expected = OPTUNAS(numbers).astype(float)
    np.testing.assert_allclose(_truncnorm._log_ndtr(numbers), expected, rtol=1e-7)


def test_the_proposals_are_optunas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the same proposals with Optuna's own function, up to the rounding of floats."""

    def propose() -> list[dict[str, Any]]:
        proposer = Proposer(loading.load_space("ex2"), "tpe", seed=3)
        proposals = []
        for number in range(40):
            proposal = proposer.propose(number)
            assert proposal is not None
            proposer.report(number, 1, 1 / (1 + number % 7))
            proposer.tell(number, "COMPLETE", 1 / (1 + number % 7))
            proposals.append(proposal.params)
        return proposals

    patched = propose()
    calls = []

    def own(numbers: object) -> object:
        calls.append(numbers)
        return OPTUNAS(numbers).astype(float)

    monkeypatch.setattr(samplers, "apply_optuna_patches", lambda: None)
    monkeypatch.setattr(_truncnorm, "_log_ndtr", own)
    for own_params, params in zip(propose(), patched, strict=True):
        assert own_params.keys() == params.keys()
        for name, value in params.items():
            expected = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            assert own_params[name] == expected
    assert calls


def test_a_search_works_without_optunas_private_module() -> None:
    """Oracle: `samplers`, which every search imports, is imported although Optuna has moved the
    module, which `None` in `sys.modules` stands for."""
    code = (
        "import sys, optuna; sys.modules['optuna.samplers._tpe._truncnorm'] = None; "
        "del optuna.samplers._tpe._truncnorm; import raycae.optimization.samplers"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
