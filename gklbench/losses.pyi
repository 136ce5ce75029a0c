from robustbench_gkl.losses import *
