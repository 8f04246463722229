import os
import sys
import threading

try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters  # since Python 3.13


def run(code):
    failed = interpreters.run_string(interpreters.create(), code)
    if failed:
        print(failed)


run("import sys; print('another', sys.argv, sys.orig_argv[1:], sys._xoptions, sys.flags, sorted(sys.modules))")
reader, writer = os.pipe()
threads = [threading.Thread(target=run, args=(f"import os; os.write({writer}, b'{number}')",)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(os.read(reader, 99)))
sys.exit(3)
