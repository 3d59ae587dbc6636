"""The command line `tdp`."""
