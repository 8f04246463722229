# covers = ["B18"]
# figures = true
# last_value = true
# [[runs]]
# args = ["endless"]
# timeout_ms = 1500
# outcomes = ["timeout"]
# displays = 20
# [[runs]]
# args = ["raises"]
# outcomes = ["ok"]
# displays = 0
# stderr = "SystemExit"
# [[runs]]
# args = ["exits"]
# outcomes = ["error"]
# exit_code = 7
# displays = 0
# [[runs]]
# args = ["memory"]
# timeout_ms = 20000
# outcomes = ["out_of_memory", "ok"]
# displays = 0
# [[runs]]
# args = ["unhooked"]
# outcomes = ["ok"]
# displays = 0
"""A matplotlib of one's own, which has figures without end, raises, ends the process or takes all memory when it is asked to draw."""

import atexit
import os
import sys
from pathlib import Path

os.mkdir("matplotlib")
Path("matplotlib/__init__.py").touch()
Path("matplotlib/figure.py").write_text("class Figure: pass")
Path("matplotlib/_pylab_helpers.py").write_text("""
class Gcf:
    def destroy_all(): pass
""")
Path("matplotlib/pyplot.py").write_text("import matplotlib._pylab_helpers, matplotlib.figure")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib._pylab_helpers import Gcf  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


class Mine(Figure):
    @property
    def canvas(self):
        return self

    figure = canvas

    def savefig(self, file, format):
        match sys.argv[1]:
            case "raises":
                raise SystemExit("SystemExit")
            case "exits":
                os._exit(7)
            case "memory":
                while True:
                    file.write(bytes(10_000_000))
        file.write(b"x")


def figures():
    yield Mine()
    while sys.argv[1] == "endless":
        yield Mine()


Gcf.get_all_fig_managers = figures
plt.show = None
if sys.argv[1] == "unhooked":
    atexit._clear()
    sys.meta_path.clear()
