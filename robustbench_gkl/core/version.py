"""The version of gklbench."""

__version__ = "0.1.0"
