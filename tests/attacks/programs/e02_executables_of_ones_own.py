# covers = ["E2"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""No file that can be written can be executed, nor mapped as a library. An anonymous file can: it is memory, and gives no rights."""

import ctypes
import os
import shutil
import subprocess

from kit import refused

for folder in ("/tmp", "/sandbox", "/dev/shm"):
    with open(folder + "/x", "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod(folder + "/x", 0o755)
    refused(lambda folder=folder: os.execv(folder + "/x", ["x"]), "EACCES")
    library = shutil.copy(os.path.realpath("/bin/true"), folder + "/true")
    os.chmod(library, 0o755)
    refused(lambda library=library: os.execv(library, ["true"]), "EACCES")
    try:
        ctypes.CDLL(library)
    except OSError as error:
        assert "Operation not permitted" in str(error) or "failed to map" in str(error), error
    else:
        raise AssertionError("mapped")
file = os.memfd_create("x", 0)
with open("/bin/true", "rb") as true:
    os.write(file, true.read())
assert subprocess.call(["/proc/self/fd/%d" % file], pass_fds=[file]) == 0
