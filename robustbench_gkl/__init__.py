"""gklbench: adversarial training, robustness evaluation and leaderboards for image classifiers."""

__version__ = "0.1.0"
