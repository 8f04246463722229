"""The program of the workbench: it makes a runner image of the root file system that it runs in, as
root, by the base's own python3.

Its text is handed to that interpreter; nothing imports it. It writes one line of JSON at each step,
and waits for the end of its stdin when it is done: that is when the container is committed. Python
3.4 must understand it, to be told that it is too old.
"""

import compileall
import importlib.util
import json
import os
import platform
import re
import shutil
import site
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile


def tell(**facts: "str | bool | None") -> None:
    print(json.dumps(facts), flush=True)


def run(*command: str) -> str:
    environment = dict(os.environ, HOME=work, TMPDIR=work)
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit("%s failed: %s" % (os.path.basename(command[0]), done.stdout.decode(errors="replace")[-3000:].strip()))
    return done.stdout.decode(errors="replace").strip()


def add(name: str, folder: str) -> None:
    os.makedirs(folder, mode=0o755, exist_ok=True)
    source, target = os.path.join(work, name), os.path.join(folder, name)
    if os.path.isdir(source):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


# Docker puts an empty file over /etc/hosts of every container without a network, whatever the image
# has there. So the C library, glibc or musl, is changed to read another file.
HOSTS = "/lib/hosts"
FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
LIBRARY = r"(libc|libnss_files|ld-musl-\w+)[-.].*so(\..*)?"
RESOLVE = "import socket as s; print([s.getaddrinfo('localhost', 1, family)[0][4][0] for family in (s.AF_INET, s.AF_INET6)])"


def name_loopback(text: str) -> None:
    with open(HOSTS, "w") as file:
        file.write(text)
    os.chmod(HOSTS, 0o644)
    change_libraries()
    if run(sys.executable, "-c", RESOLVE) != "['127.0.0.1', '::1']":
        sys.exit("its C library does not resolve localhost by a hosts file")


def change_libraries() -> None:
    for folder in FOLDERS:
        for parent, _, names in os.walk(folder):
            for path in [os.path.join(parent, name) for name in names if re.fullmatch(LIBRARY, name)]:
                if not os.path.islink(path):
                    use_hosts(path)


def use_hosts(path: str) -> None:
    with open(path, "rb") as file:
        library = file.read()
    # The new path is as long as the old one, and ends like it: a linker may keep one text for both
    # "hosts" and this.
    changed = library.replace(b"/etc/hosts\0", HOSTS.encode() + b"\0")
    if changed != library:
        with open(path + ".new", "wb") as file:
            file.write(changed)
        shutil.copymode(path, path + ".new")
        os.rename(path + ".new", path)  # programs that run keep the old one


# matplotlib looks for its list of fonts in a folder that it can write to, and takes seconds to make
# it anew where there is none. A program has no such folder: so the list is part of the image.
FONTS = """

# Added by dayfly: the list of fonts was made with the image.
def get_cachedir():
    return %r
"""


def list_fonts() -> None:
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return
    cache = os.path.join(os.path.dirname(found.origin), "dayfly_cache")
    os.makedirs(cache, mode=0o755, exist_ok=True)
    run(sys.executable, "-c", "import os; os.environ['MPLCONFIGDIR'] = %r; import matplotlib.font_manager" % cache)
    with open(found.origin, "a") as file:
        file.write(FONTS % cache)


work = tempfile.mkdtemp(dir="/")
try:
    if sys.version_info < (3, 8):
        sys.exit("its python3 is %s, and the runner needs 3.8 or newer" % platform.python_version())
    if "dayfly_runner" in sys.modules:
        sys.exit("the runner was loaded into its own build")
    python2 = shutil.which("python2.7")
    version2 = python2 and run(python2, "-c", "import platform; print(platform.python_version())")
    tell(version=platform.python_version(), platform=sysconfig.get_platform(), glibc=platform.libc_ver()[1], python2=version2 or None)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        tar.extractall(work)
    with open(os.path.join(work, "order.json")) as file:
        order = json.load(file)
    if order["pip"]:
        wheels = os.path.join(work, "wheels")
        pip = [name for name in os.listdir(wheels) if name.startswith("pip-")][0]
        options = "--no-index --no-cache-dir --no-compile --no-warn-script-location --disable-pip-version-check --root-user-action=ignore"
        install = ["install"] + options.split() + ["--break-system-packages", "--find-links", wheels] + order["pip"]
        run(sys.executable, os.path.join(wheels, pip, "pip"), *install)
    list_fonts()
    folder = site.getsitepackages()[0]
    for name in order["files"]:
        add(name, folder)
    if python2:
        folder2 = run(python2, "-c", "import site; print(site.getsitepackages()[0])")
        add("sandbox.py", folder2)
        run(python2, "-m", "compileall", "-q", os.path.join(folder2, "sandbox.py"))
    beside = os.path.dirname(shutil.which("python3") or sys.executable)
    if not shutil.which("python"):
        os.symlink("python3", os.path.join(beside, "python"))
    for name in ("pip", "pip3"):
        if not shutil.which(name):
            path = os.path.join(beside, name)
            with open(path, "w") as file:
                file.write(order["no_pip"])
            os.chmod(path, 0o755)
    if not importlib.util.find_spec("pip"):
        with open(os.path.join(folder, "pip.py"), "w") as file:
            file.write(order["no_pip_module"])
    name_loopback(order["hosts"])
    for path in [sysconfig.get_paths()["stdlib"]] + site.getsitepackages():
        if os.path.isdir(path):
            compileall.compile_dir(path, quiet=2, workers=0)  # what is compiled already is left as it is
    run(sys.executable, "-c", "import importlib.util as u; import sandbox; assert u.find_spec('dayfly_runner')")
    for name in order["preload"]:
        run(sys.executable, "-c", "import " + name)
    device = os.stat("/").st_dev
    for parent, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.lstat(os.path.join(parent, name)).st_dev == device]
        for name in names:
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and mode & 0o6000:
                os.chmod(path, stat.S_IMODE(mode) & 0o1777)
    shutil.rmtree(work)
    tell(done=True)
    sys.stdin.buffer.read()
except SystemExit as error:
    tell(error=str(error))
except BaseException as error:
    tell(error="%s: %s" % (type(error).__name__, error))
finally:
    shutil.rmtree(work, ignore_errors=True)
