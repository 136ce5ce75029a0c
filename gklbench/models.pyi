from robustbench_gkl.models import *
