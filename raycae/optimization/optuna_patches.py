"""Replace a slow private function of Optuna; every patch of Optuna is in this module.

TPE's likelihoods need the logarithm of the normal distribution function. Optuna computes it in
Python, number by number, to avoid an import of SciPy, which raycae needs anyway. This took half of
the time of a proposal from 200 trials.
"""

from __future__ import annotations

from contextlib import suppress


def apply_optuna_patches() -> None:
    """Let Optuna's TPE compute with SciPy; the values agree to 1e-7 of their size."""
    # An Optuna that has moved or renamed the function works without the patch, only more slowly.
    with suppress(ImportError, AttributeError):
        from optuna.samplers._tpe import _truncnorm
        from scipy.special import log_ndtr

        if callable(_truncnorm._log_ndtr):
            _truncnorm._log_ndtr = log_ndtr
