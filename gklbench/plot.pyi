from robustbench_gkl.plot import *
