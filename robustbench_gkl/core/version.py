"""The version of gklbench."""

__version__ = "0.2.0"
