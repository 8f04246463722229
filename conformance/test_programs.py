"""What a program is given, and how its output comes back."""

from __future__ import annotations

import base64
import json
import re
import threading
from typing import Any

import pytest
from conformance.conftest import Box, NewBox
from conformance.oracle import DIED, PlainContainer
from conformance.report import clause, not_applicable

SOURCES = {
    "empty": b"",
    "a comment without a line end": b"# nothing",
    "a form feed, and line ends of all kinds": b"print(1)\r\n\x0cprint(2)\rprint(3)\n",
    "a byte order mark": "\ufeffprint('ä')\n".encode(),
    "an encoding declaration": "# -*- coding: latin-1 -*-\nprint(ascii('ä'))\n".encode("latin-1"),
    "an unknown encoding": b"# coding: no-such-encoding\nprint(1)\n",
    "no UTF-8": b"print('\xe4')\n",
    "a null byte": b"print(1)\nprint('a\0b')\n",
    "null bytes alone": bytes(9),
    "half of a surrogate pair": b"print('\xed\xa0\x80')\n",
    "UTF-16": "print(1)\n".encode("utf-16"),
    "every byte": bytes(range(256)),
}


@clause("run.bytes")
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_bytes_are_a_program_as_they_are_in_a_file(box: Box, plain: PlainContainer, source: bytes) -> None:
    answer = box.run({"codeBytes": base64.b64encode(source).decode()})
    got = answer["exitCode"], base64.b64decode(answer["stdoutRaw"] or ""), answer["stdout"], answer["stderr"]
    status, stdout, stderr = plain.run(["python3", "-u", "main.py"], {"main.py": source})
    assert got == (status, b"", stdout.decode(), stderr.decode())


@clause("run.text")
@pytest.mark.parametrize("text", ["", "\n", "print(1)\0", "\0", "print('\ud800')", "# \udfff\nprint(1)"], ids=ascii)
def test_any_text_is_a_program(box: Box, plain: PlainContainer, text: str) -> None:
    answer = box.run({"code": text})
    status, stdout, stderr = plain.run(["python3", "-u", "main.py"], {"main.py": text.encode("utf-8", "surrogatepass")})
    assert (answer["exitCode"], answer["stdout"], answer["stderr"]) == (status, stdout.decode(), stderr.decode())


ARGS = ["", " a  b ", "-c", "--", "ä🦋", "line\nline", "'\"$HOME`\\*", "x" * 9_000]


@clause("run.args")
@pytest.mark.parametrize("v3", [True, False])
def test_arguments_arrive_as_they_are(box_python2: Box, v3: bool) -> None:
    answer = box_python2.run({"code": "import json, sys\nprint(json.dumps(sys.argv))", "args": ARGS, "v3": v3})
    assert (json.loads(answer["stdout"]), answer["stderr"]) == (["main.py", *ARGS], "")


@clause("run.env")
@pytest.mark.parametrize("v3", [True, False])
def test_the_environment_is_added_to(box_python2: Box, v3: bool) -> None:
    env = {"A": "", "ä B": "=🦋\n", "LANG": "C"}
    answer = box_python2.run({"code": "import json, os\nprint(json.dumps(dict(os.environ)))", "env": env, "v3": v3})
    found = json.loads(answer["stdout"])
    assert {name: found.get(name) for name in env} == env
    assert found["HOME"]


@clause("run.stdin")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, b""),
        ({"stdin": "ä\0\n"}, "ä\0\n".encode()),
        ({"stdinBytes": base64.b64encode(bytes(range(256)) * 6_000).decode()}, bytes(range(256)) * 6_000),
        ({"data": {"a": "ä"}}, '{"a":"ä"}\n'.encode()),
        ({"data": 1, "stdin": "own"}, b"own"),
    ],
    ids=["none", "text", "bytes", "data", "both"],
)
def test_standard_input_is_what_was_given(box: Box, given: dict[str, Any], expected: bytes) -> None:
    answer = box.run(
        {"code": "import hashlib, sys\nwhole = sys.stdin.buffer.read()\nprint(len(whole), hashlib.sha256(whole).hexdigest())", **given}
    )
    import hashlib  # noqa: PLC0415

    assert answer["stdout"] == f"{len(expected)} {hashlib.sha256(expected).hexdigest()}\n"


OWN_PEAK = "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
"""The largest resident size of the process itself, in KiB."""


@clause("run.input-memory")
@pytest.mark.parametrize(
    "code", ["import time; time.sleep(0.5)", "import sys\nfor line in sys.stdin: pass", "import sys\nkept = sys.stdin.read()"]
)
def test_input_costs_the_memory_that_the_program_keeps_of_it(box: Box, plain: PlainContainer, gvisor: bool, code: str) -> None:
    if gvisor:
        not_applicable("gVisor does not count a container's memory")
    stdin = b"line\n" * 780_000
    own = [plain.run(["python3", "-u", "main.py"], {"main.py": (code + OWN_PEAK).encode()}, [("", 0, data)])[1] for data in (b"", stdin)]
    answers = [box.run({"code": code + OWN_PEAK, "stdin": data.decode()}) for data in (b"", stdin)]
    assert [answer["outcome"] for answer in answers] == ["ok", "ok"]
    grown = answers[1]["peakMemoryBytes"] - answers[0]["peakMemoryBytes"]
    assert grown < (int(own[1]) - int(own[0])) * 1024 + 2_000_000, f"{len(stdin):,} bytes of input cost {grown:,}"


@clause("run.input-memory")
def test_unread_input_is_no_lack_of_memory(new_box: NewBox, gvisor: bool) -> None:
    if gvisor:
        not_applicable("gVisor itself needs the memory of this test")
    answer = new_box(memory_limit_mb=30).run({"code": "import time\ntime.sleep(0.5)\nprint('ended')", "stdin": "x" * 3_900_000})
    assert (answer["outcome"], answer["stdout"]) == ("ok", "ended\n")


BAD_INPUT: list[dict[str, Any]] = [
    {"args": ["a\0"]},
    {"args": "ab"},
    {"args": [1]},
    {"args": ["\ud800"]},
    {"env": {"A\0": ""}},
    {"env": {"A=B": ""}},
    {"env": {"": ""}},
    {"env": {"A": 1}},
    {"stdin": "a", "stdinBytes": "YQ=="},
    {"stdin": 1},
    {"seed": "1"},
    {"seed": 2**63},
    {"mergeStderr": 1},
    {"codeBytes": "YQ=="},
]


@clause("limit.bad-job")
def test_input_that_makes_no_sense_costs_no_container(new_box: NewBox) -> None:
    box = new_box()
    for given in BAD_INPUT:
        with pytest.raises((TypeError, ValueError)):
            box.run({"code": "print(1)", **given})
    box.seen.catch_up()
    assert box.seen.which(DIED) == set()


@clause("run.seed")
def test_a_seed_repeats_the_random_numbers(box: Box) -> None:
    code = "import random\nprint([random.random() for _ in range(9)])"
    seeds = [1, 1, -2, 2**63 - 1, -(2**63), None, None]
    answers = [box.run({"code": code, **({} if seed is None else {"seed": seed})})["stdout"] for seed in seeds]
    assert answers[0] == answers[1]
    assert len(set(answers)) == len(seeds) - 1


@clause("run.interpreters")
@pytest.mark.parametrize(
    "code",
    [
        """
try: import _xxsubinterpreters as interpreters
except ImportError: import _interpreters as interpreters
for _ in range(2): interpreters.run_string(interpreters.create(), "import sys; print(sys.argv[0], sys._xoptions)")
""",
        """
import subprocess
with open("/proc/self/cmdline") as file: command = file.read().split(chr(0))[:-1]
open("again.py", "w").write("import sys; print(sys.argv[0], sys._xoptions)")
for _ in range(2): subprocess.run([*command[:-1], command[-1].replace("main", "again")], check=True)
""",
    ],
    ids=["in its process", "by its command line"],
)
def test_an_interpreter_that_a_program_makes_is_plain(box: Box, code: str) -> None:
    answer = box.run({"code": code + "print(input())", "stdin": "untouched"})
    lines = answer["stdout"].replace("again.py", "main.py").splitlines()
    assert (lines, answer["stderr"], answer["exitCode"]) == (["main.py {}", "main.py {}", "untouched"], "", 0)


@clause("answer.merged")
def test_merged_output_is_in_the_exact_order_of_writing(box: Box) -> None:
    code = """
import os, subprocess, sys
for n in range(2000):
    os.write(1 + n % 2, b'%04d\\n' % n)
print('print')
print('error', file=sys.stderr)
subprocess.run(['sh', '-c', 'echo shell >&2; echo shell'])
sys.exit('end')
"""
    answer = box.run({"code": code, "mergeStderr": True})
    expected = "".join(f"{number:04}\n" for number in range(2000)) + "print\nerror\nshell\nshell\nend\n"
    assert (answer["stdout"], answer["stderr"], answer["combined"], answer["exitCode"]) == (expected, "", expected, 1)


@clause("answer.streamed")
def test_output_is_heard_while_the_program_runs(box: Box) -> None:
    first = threading.Event()
    thread = threading.Thread(
        target=box.run,
        args=({"code": "print('first', flush=True)\nwhile True: pass", "timeoutMs": 4_000},),
        kwargs={"heard": lambda *_: first.set()},
    )
    thread.start()
    assert first.wait(30)
    assert thread.is_alive(), "the program has four seconds, and its first output came at the end"
    thread.join()


@clause("answer.streamed")
def test_what_is_heard_makes_up_the_answer(box: Box) -> None:
    code = """
import os, time
for piece in (b'\\xf0\\x9f', b'\\xa6\\x8b and ', b'\\xff', b'\\xe4\\xb8'):
    os.write(1, piece)
    time.sleep(0.2)
os.write(2, b'\\xc3')
"""
    pieces: list[tuple[str, str]] = []
    answer = box.run(code, heard=lambda stream, text: pieces.append((stream, text)))
    heard = {stream: "".join(text for whose, text in pieces if whose == stream) for stream in ("stdout", "stderr")}
    assert heard == {"stdout": "🦋 and \ufffd\ufffd", "stderr": "\ufffd"}
    assert {stream: answer[stream] for stream in heard} == heard
    assert base64.b64decode(answer["stdoutRaw"]) == b"\xf0\x9f\xa6\x8b and \xff\xe4\xb8"


LOADED = "import sys\nprint('decimal' in sys.modules, 'fractions' in sys.modules)"


@clause("preload.there")
def test_each_program_has_the_preloaded_modules(new_box: NewBox, box: Box) -> None:
    plain = box.run(LOADED)
    assert (plain["stdout"], plain["preloaded"]) == ("False False\n", False)
    loaded = new_box(preload=["fractions"])
    for _ in range(2):
        answer = loaded.run(LOADED)
        assert (answer["stdout"], answer["preloaded"]) == ("True True\n", True)
    # Python reads this when it starts, so one is started that has nothing yet.
    anew = loaded.run({"code": LOADED, "env": {"PYTHONHASHSEED": "0"}})
    assert (anew["stdout"], anew["preloaded"]) == ("False False\n", False)
    session = loaded.sandbox.session()
    for _ in range(2):
        answer = session.run(LOADED)
        assert (answer["stdout"], answer["preloaded"]) == ("True True\n", True)


@clause("preload.memory")
def test_a_memory_limit_that_leaves_too_little_is_refused(new_box: NewBox, gvisor: bool) -> None:
    if gvisor:
        not_applicable("its kernel does not say how much memory a container uses")
    box = new_box(initialize=False, preload=["decimal"], memory_limit_mb=17)
    with pytest.raises(Exception, match=r"memory_limit_mb to \d+") as refused:
        box.sandbox.initialize()
    (enough,) = re.findall(r"memory_limit_mb to (\d+)", str(refused.value))
    box = new_box(preload=["decimal"], memory_limit_mb=int(enough))
    for _ in range(3):
        assert box.run("x = b'x' * 12_000_000\nprint(1)")["stdout"] == "1\n"


@clause("preload.refused")
def test_a_module_that_cannot_be_preloaded_is_named(new_box: NewBox) -> None:
    box = new_box(initialize=False, preload=["decimal", "no_such_module"])
    with pytest.raises(Exception, match="no_such_module"):
        box.sandbox.initialize()
    box.sandbox.close()
    box.seen.none_left()
