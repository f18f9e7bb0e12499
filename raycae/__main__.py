"""`python -m raycae` is `raycae`."""

from raycae.cli import main

main()
