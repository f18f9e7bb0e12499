"""Limits after which a silent or failing trial is given up."""

from __future__ import annotations

ALIKE = {"diverged": 20}
"""So many failures in a row for one reason end a search; divergence is what a wide space has."""
ALIKE_ELSE = 5
QUIET_FACTOR = 10.0
"""An epoch may last so many times the slowest one of its trial, or, while it has none, what the
study's slowest predicts for it."""
QUIET_LEAST_S = 60.0
QUIET_FIRST_S = 300.0
"""On top for a first epoch: a process starts, images travel."""
QUIET_UNKNOWN_S = 3600.0
"""For a study's very first epochs, of which nothing is known."""
DEAF_S = 10.0
"""Whoever has not looked for so long has heard nobody meanwhile."""
