"""The Python interface: evaluate, certify and train as ``import gklbench`` offers them, shown as they run."""
