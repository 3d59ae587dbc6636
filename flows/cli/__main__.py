"""`python -m flows.cli` is `tdp`."""

from flows.cli.main import main

main()
