"""The shape of an image."""

Shape = tuple[int, int, int]
"""(channels, height, width)."""
