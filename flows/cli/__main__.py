"""`python -m flows.cli` is `tdp`."""

from flows.cli.start import main

main()
