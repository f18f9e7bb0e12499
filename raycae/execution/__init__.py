"""Running trials, on Ray or in simulated time."""
