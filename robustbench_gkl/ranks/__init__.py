"""The processes that torchrun starts: collectives and messages."""
