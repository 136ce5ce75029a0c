"""Records, verdicts, their store, statistics and leaderboards. Imports no torch."""

from robustbench_gkl.results.leaderboard import leaderboard
from robustbench_gkl.results.record import Record
from robustbench_gkl.results.store import ResultStore

__all__ = ["Record", "ResultStore", "leaderboard"]
