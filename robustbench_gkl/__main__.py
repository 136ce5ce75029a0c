"""``python -m robustbench_gkl``."""

from robustbench_gkl.cli import main

main()
