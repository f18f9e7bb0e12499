"""The report of `raycae reproduce`: the course report's claims, judged."""
