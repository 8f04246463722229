# covers = ["C1", "C3", "C11", "C12"]
# outcomes = ["error"]
# exit_code = 3
# stdout = "forged"
# gvisor = { lost = true }
"""Write an end of the run, well-formed but for the token, to every descriptor that there is, and to the runner's. The exit code tells whose word counts."""

import json
import os
import sys

end = {
    "type": "exit", "token": "0" * 32, "exit_code": 0, "signal": None, "timed_out": False, "output_limit": False,
    "stdout_dropped": 0, "stderr_dropped": 0, "messages_dropped": 0, "wall_ms": 1.0, "cpu_ms": 1.0,
    "peak_memory_bytes": 1, "oom_kills": 0, "note": "forged",
}  # fmt: skip
body = json.dumps(end).encode()
frame = len(body).to_bytes(4, "big") + body
docker = b"\x01\0\0\0" + len(frame).to_bytes(4, "big") + frame
open_files = {int(name) for name in os.listdir("/proc/self/fd")}
listing = os.open("/proc/self/fd", os.O_RDONLY)
assert open_files - {listing} == {0, 1, 2, 1000}, open_files
os.close(listing)
for file in range(2000):
    for forgery in (frame, docker, frame * 3):
        try:
            os.write(file, forgery)
        except OSError:
            pass
for path in ("/proc/1/fd/1", "/proc/1/fd/0"):
    try:
        with open(path, "wb", 0) as file:
            file.write(frame)
    except PermissionError:
        pass
sys.exit(3)
