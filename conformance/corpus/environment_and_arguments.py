import os
import sys

print(sys.argv, sys.path[0], os.getcwd(), __file__, __name__)
print(sorted(os.environ.items()))
print(sys.executable, sys.prefix, getattr(sys, "orig_argv", None), sys.warnoptions, sys._xoptions)
