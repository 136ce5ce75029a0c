"""Adapters to the published implementations: pyautoattack and torchattacks."""
