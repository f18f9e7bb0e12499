"""Replace slow private functions of Optuna; every patch of Optuna is in this module.

TPE's likelihoods need the normal distribution function and its logarithm. Optuna computes them in
Python, to avoid an import of SciPy, which raycae needs anyway. The logarithm took half of the time
of a proposal from 200 trials, and the function itself takes a twentieth. TPE also divides the
trials into better and worse ones again for each group of conditional parameters. With 60 trials of
`ex2`, the gain of dividing them once is below the noise (analysis/FINDINGS.md).
"""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import Any

SPLIT = ("split of the trials",)
"""The key of the better and the worse trials among the models of a `drawing.Window`."""


@functools.cache
def apply_optuna_patches() -> None:
    """Let Optuna's TPE compute with SciPy, and divide the trials of a window once.

    SciPy's values agree to 1e-7 of their size.
    """
    # An Optuna that has moved or renamed a function works without the patch, only more slowly.
    with suppress(ImportError, AttributeError):
        from optuna.samplers._tpe import _truncnorm
        from scipy.special import log_ndtr, ndtr

        if callable(_truncnorm._log_ndtr) and callable(_truncnorm._ndtr):
            _truncnorm._log_ndtr, _truncnorm._ndtr = log_ndtr, ndtr
    with suppress(ImportError, AttributeError):
        from optuna.samplers._tpe import sampler

        split = sampler._split_trials

        def split_once(study: Any, *arguments: Any) -> Any:
            models = getattr(study, "models", None)
            if models is None:
                return split(study, *arguments)
            if SPLIT not in models:
                models[SPLIT] = split(study, *arguments)
            return models[SPLIT]

        sampler._split_trials = split_once  # type: ignore[assignment]
