# covers = ["F5", "G4"]
# outcomes = ["ok"]
# timeout_ms = 20000
"""Sockets of the host's, by abstract name and by path; and what a build may have left behind: keys, settings, caches, histories."""

import os
import socket
import stat

from kit import refused

for name in (
    "\0/containerd-shim/x.sock",
    "\0/tmp/.X11-unix/X0",
    "\0/tmp/dbus",
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/dbus/system_bus_socket",
    "/tmp/.X11-unix/X0",
):
    with socket.socket(socket.AF_UNIX) as one:
        refused(lambda one=one, name=name: one.connect(name), "ECONNREFUSED", "ENOENT", "EACCES")
found = []
for folder, folders, names in os.walk("/"):
    folders[:] = [one for one in folders if os.path.join(folder, one) not in ("/proc", "/sys")]
    for name in names + folders:
        path = os.path.join(folder, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
            found.append(path)
        if name in (
            ".git",
            ".ssh",
            ".aws",
            ".netrc",
            ".pypirc",
            "pip.conf",
            ".docker",
            ".bash_history",
            ".python_history",
            "id_rsa",
            ".env",
            "docker.sock",
        ):
            found.append(path)
        if stat.S_ISREG(mode) and mode & stat.S_IWOTH and not path.startswith(("/tmp/", "/sandbox/", "/dev/")):
            found.append(path)
assert not found, found
