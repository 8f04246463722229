import importlib
import os
import sys

with open("helper.py", "w") as file:
    file.write("def fail():\n    raise ValueError('in helper')\nprint('imported', __name__, __file__)\n")
importlib.invalidate_caches()
import helper

print(sorted(name for name in os.listdir(".") if not name.startswith("__")), "helper" in sys.modules)
helper.fail()
