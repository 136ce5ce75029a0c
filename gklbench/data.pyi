from robustbench_gkl.data import *
