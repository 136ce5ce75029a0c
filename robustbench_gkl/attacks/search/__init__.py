"""The driver that runs a search over many samples with full batches, and what a search is made of."""
