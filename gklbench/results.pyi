from robustbench_gkl.results import *
