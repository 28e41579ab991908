"""The launcher: `python -m lightning_project VERB`."""

__version__ = "0.1.0"
