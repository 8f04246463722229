"""A host process around an implementation: jobs come in as lines of JSON, answers go out as lines
of JSON.

For what can only be judged from outside the process: a host that is killed, one that is not root,
one on a bare machine.

    python -m conformance.host '{"engine": "unix:///…", "image": "…", "settings": {}, "adapter":
    "conformance.adapter:Dayfly"}'

Says `{"ready": true}` when the sandbox is initialized, with what was imported by then.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from conformance import adapter


def main() -> None:
    """Serve until stdin ends."""
    order = json.loads(sys.argv[1])
    implementation = adapter.load(order["adapter"], order["engine"], order.get("runtime"))
    sandbox = implementation.sandbox(order["image"], order["settings"])
    say({"starting": True})
    sandbox.initialize()
    say({"ready": True, "uid": os.getuid(), "groups": os.getgroups()})

    def answer(line: str) -> None:
        try:
            result = sandbox.run(json.loads(line))
        except Exception as error:  # noqa: BLE001 - it is the answer
            say({"error": f"{type(error).__name__}: {error}"})
        else:
            say({"result": result, "modules": sorted({name.partition(".")[0] for name in sys.modules})})

    runs = []
    for line in sys.stdin:
        runs.append(threading.Thread(target=answer, args=(line,)))
        runs[-1].start()
    for run in runs:
        run.join()
    sandbox.close()


def say(what: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
