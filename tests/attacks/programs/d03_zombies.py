# covers = ["D3"]
# outcomes = ["ok"]
# timeout_ms = 20000
# before_the_deadline = true
# gvisor = { outcomes = ["ok", "error", "timeout", "out_of_memory"], before_the_deadline = false }
"""Children that nobody waits for fill the limit; orphans do not, since process 1 waits for them."""

import os

from kit import until_refused


def zombie():
    if os.fork() == 0:
        os._exit(0)


count = until_refused(zombie, "EAGAIN")
assert count < 64, count
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
for _ in range(300):
    middle = os.fork()
    if middle == 0:
        try:
            zombie()
        finally:
            os._exit(0)
    assert os.waitpid(middle, 0)[1] == 0
