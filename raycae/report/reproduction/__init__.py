"""The report of `raycae reproduce`: the source report's claims, judged."""
