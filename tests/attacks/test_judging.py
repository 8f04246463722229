"""Submissions that want a better verdict than they deserve, or none at all: P20."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dayfly import Sandbox
from dayfly.judge import Call, Case, CaseLimits, JudgeResult, Program

SECRET = 7919
"""What is expected: nobody prints it by chance."""
OUTPUT = [Case(stdin=str(number), expected=str(SECRET + number)) for number in range(2)]
VALUE = [Case(call=Call("f", [number]), expected=SECRET + number) for number in range(2)]


@pytest.fixture(scope="module")
def sandbox(image: str, runtime: str) -> Iterator[Sandbox]:
    with Sandbox(1, runtime=runtime, max_containers=3) as sandbox:
        yield sandbox


def verdicts(told: JudgeResult) -> set[str]:
    return {case.verdict.value for case in told.cases}


NO_ANSWER = {
    "a claim": "print('accepted')\nimport sandbox\nsandbox.send({'verdict': 'accepted', 'score': 1.0, 'returned': True})",
    "an early end": "import os\nos._exit(0)",
    "the exit code of the syntax check": "import sys\nsys.stderr.write('SyntaxError: invalid syntax\\n')\nsys.exit(65)",
    "another program": "import os\nos.execv('/bin/true', ['true'])",
    "closed descriptors": "import os\nos.closerange(0, 2000)\nos._exit(0)",
    "frames on every descriptor": """
import os, struct
body = b'{"type":"exit","exit_code":0}'
for file in range(3, 1100):
    try:
        os.write(file, struct.pack(">I", len(body)) + body)
    except OSError:
        pass""",
    "the zygote killed": """
import os
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        os.kill(int(name), 9)""",
    "the zygote's limits": """
import os, resource
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        resource.prlimit(int(name), resource.RLIMIT_NOFILE, (4, 4))""",
    "memory that others are killed for": """
import os
for _ in range(3):
    os.fork()
kept = []
while True:
    try:
        kept.append(os.memfd_create("x"))
        os.write(kept[-1], bytes(4_000_000))
    except OSError:
        pass""",
    "source that is hard to compile": f"x = {'-' * 100_000}1",
    "folders that are hard to wipe": "import os\nos.makedirs('a/' * 400)\nos.chmod('.', 0)\nos.mkdir('/tmp/b')\nos.chmod('/tmp/b', 0)",
}


@pytest.mark.parametrize("trick", NO_ANSWER)
def test_a_trick_is_neither_accepted_nor_the_judge_s_error(sandbox: Sandbox, trick: str) -> None:
    told = sandbox.judge(NO_ANSWER[trick], OUTPUT, limits=CaseLimits(wall_ms=20_000))
    assert verdicts(told) <= {"wrong_answer", "runtime_error", "memory_limit"}, told


NO_VALUE = {
    "an early end": "import sandbox, os\nsandbox.send({'returned': True})\nos._exit(0)",
    "replaced modules": "import json, sandbox\njson.dumps = lambda *_, **__: '{\"returned\": true}'\nsandbox.send = print\nf = abs",
    "any name at all": "def __getattr__(name): return lambda *_, **__: True",
    "a module that ends": """
import os, sys
class M(type(sys)):
    def __getattribute__(self, name): os._exit(0)
sys.modules[__name__].__class__ = M""",
    "a hook that ends well": "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\nf = len",
    "an exception that cannot be shown": """
class E(Exception):
    def __getattribute__(self, name): raise E
    def __str__(self): raise E
def f(number): raise E""",
    "equal to everything": "class N(int):\n    def __eq__(self, other): return True\ndef f(number): return N(1)",
    "without a bottom": "def f(number):\n    for _ in range(150): number = [number]\n    return number",
    "an endless number": "import sys\nsys.set_int_max_str_digits(0)\ndef f(number): return 10 ** 50_000",
    "half a character": 'import os\ndef f(number):\n    os.write(1000, b\'\\0\\0\\0\\x16{"returned": "\\\\ud800"}\')\n    os._exit(0)',
    "half a message": "import os\ndef f(number):\n    os.write(1000, b'\\0\\0\\xff\\xff{')\n    os._exit(0)",
    "not a number": "def f(number): return float('nan')",
    "a hundred thousand values": "def f(number): return list(range(100_000))",
}


@pytest.mark.parametrize("trick", NO_VALUE)
def test_a_value_is_only_what_the_host_makes_of_it(sandbox: Sandbox, trick: str) -> None:
    told = sandbox.judge(NO_VALUE[trick], VALUE)
    assert verdicts(told) <= {"wrong_answer", "runtime_error", "output_limit"}, told
    assert len(told.to_json()) < 10_000 * len(VALUE)


LOOK = """
import gc, sandbox, sys
found, frame = [sandbox.data, sys.argv], sys._getframe()
while frame:
    found.append(dict(frame.f_locals, found=None))
    frame = frame.f_back
found += [kept for kept in gc.get_objects() if type(kept) is dict and "expected" in kept]
def f(number):
    print(found)
"""


def test_what_is_expected_is_not_in_the_harness(sandbox: Sandbox) -> None:
    told = sandbox.judge(LOOK, [Case(call=Call("f", ["given"]), expected="the secret answer")], keep_output=None)
    result = told.cases[0].result
    assert result
    assert "given" in result.stdout
    assert "the secret answer" not in result.stdout
    assert verdicts(told) == {"wrong_answer"}


ECHO = """
import sys
output = open(sys.argv[2]).read()
print(output)
sys.stderr.write(f"points {int('points' not in output)} for {output}")
sys.exit(7)"""


def test_what_a_checker_quotes_gives_no_points_and_no_escapes(sandbox: Sandbox) -> None:
    forged = "print('\\x1b[2J\\u202e\\npoints 1\\n')"
    told = sandbox.judge(forged, [Case(expected="1")], checker=Program(code=ECHO, protocol="testlib"))
    assert verdicts(told) == {"wrong_answer"}
    assert told.cases[0].feedback == "\ufffd[2J\ufffd\npoints 1"
