# covers = ["S6"]
# outcomes = ["ok"]
# session = true
# timeout_ms = 20000
# [[runs]]
# args = ["link"]
# [[runs]]
# args = ["second name"]
# [[runs]]
# args = ["fifo"]
# [[runs]]
# args = ["folder"]
# [[runs]]
# args = ["shut"]
"""What lies where the next program's own file is to be written: a link, a second name, a FIFO, a folder, and a folder that is shut."""

import os
import sys

how = sys.argv[1]
os.unlink("main.py")
if how == "link":
    open("/tmp/target", "w").write("kept")
    os.symlink("/tmp/target", "main.py")
elif how == "second name":
    open("/tmp/target", "w").close()
    open("other", "w").write("kept")
    os.link("other", "main.py")
elif how == "fifo":
    os.mkfifo("main.py")
elif how == "folder":
    os.makedirs("main.py/a/b")
    open("main.py/a/b/c", "w").close()
    os.chmod("main.py/a", 0)
    os.chmod("main.py", 0)
else:
    os.chmod(".", 0)
