"""`python -m flows.cli` is `tdp`."""

from flows.cli.startup import tdp

tdp()
