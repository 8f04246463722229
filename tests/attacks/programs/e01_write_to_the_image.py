# covers = ["E1"]
# outcomes = ["ok"]
"""Change what the next run will be made of: the interpreter, its library, the runner, the caches."""

import os
import site
import sys
import sysconfig

from kit import refused

own = site.getsitepackages()[0]
library = sysconfig.get_path("stdlib")
places = [
    "/",
    "/etc",
    "/usr",
    "/usr/bin",
    "/lib",
    "/var",
    "/var/tmp",
    "/run",
    "/root",
    "/home",
    "/opt",
    "/proc",
    "/sys",
    "/dev",
    own,
    library,
    library + "/__pycache__",
]
for folder in filter(os.path.isdir, places):
    refused(lambda folder=folder: os.open(folder + "/x", os.O_CREAT | os.O_WRONLY), "EROFS", "EACCES", "ENOENT", "EPERM")
    refused(lambda folder=folder: os.mkdir(folder + "/x"), "EROFS", "EACCES", "ENOENT", "EPERM")
files = [
    sys.executable,
    own + "/zz_dayfly_runner.pth",
    own + "/sandbox.py",
    own + "/dayfly_runner/_parent.py",
    os.__file__,
    "/etc/passwd",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/hostname",
    "/bin/sh",
]
for path in files:
    path = os.path.realpath(path)
    assert os.path.exists(path), path
    refused(lambda path=path: os.open(path, os.O_WRONLY), "EROFS", "EACCES", "ETXTBSY")
    refused(lambda path=path: os.chmod(path, 0o777), "EROFS", "EPERM")
    refused(lambda path=path: os.unlink(path), "EROFS", "EACCES", "EBUSY")
    refused(lambda path=path: os.rename(path, path + "x"), "EROFS", "EACCES", "EBUSY")
    refused(lambda path=path: os.utime(path), "EROFS", "EACCES", "EPERM")
    refused(lambda path=path: os.link(path, "/tmp/x"), "EXDEV", "EPERM")
    refused(lambda path=path: os.setxattr(path, "user.x", b"x"), "EROFS", "EACCES", "EPERM", "ENOTSUP")
