from robustbench_gkl.attacks import *
