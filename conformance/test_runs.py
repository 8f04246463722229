"""What run takes, and what it answers."""

from __future__ import annotations

from typing import Any

import pytest
from conformance.conftest import Box, NewBox
from conformance.oracle import DIED
from conformance.report import clause, not_applicable

VERSION = "import sys\nprint(sys.version_info[0])"


@clause("run.example")
def test_the_documented_example_verbatim(new_box: NewBox) -> None:
    pool_size = 5
    box = new_box(python2=True, pool_size=pool_size, python="2")
    code = 'print "Hello, world!"'
    timeout_ms = 2 * 1000
    result = box.run({"code": code, "timeoutMs": timeout_ms})
    assert result["stdout"] == "Hello, world!\n"
    assert (result["isError"], result["timedOut"], result["stderr"]) == (False, False, "")


@clause("run.string")
def test_code_as_a_string(box: Box) -> None:
    assert box.run("print('Hello, world!')")["stdout"] == "Hello, world!\n"


@clause("run.object")
@pytest.mark.parametrize("extra", [{}, {"timeoutMs": 5_000}, {"v3": True}, {"timeoutMs": 5_000, "v3": True}], ids=str)
def test_code_in_an_object(box: Box, extra: dict[str, Any]) -> None:
    assert box.run({"code": "print('Hello, world!')", **extra})["stdout"] == "Hello, world!\n"


@clause("run.timeout")
def test_the_time_limit_of_a_run_wins_over_the_sandboxes(new_box: NewBox, box: Box) -> None:
    assert box.run({"code": "import time; time.sleep(5)", "timeoutMs": 300})["timedOut"] is True
    patient = new_box(timeout_ms=300).run({"code": "import time; time.sleep(1); print('done')", "timeoutMs": 30_000})
    assert (patient["timedOut"], patient["stdout"]) == (False, "done\n")


@clause("run.v3")
def test_v3_true_is_python_3(box: Box, box_python2: Box) -> None:
    assert box.run({"code": VERSION, "v3": True})["stdout"] == "3\n"
    assert box_python2.run({"code": VERSION, "v3": True})["stdout"] == "3\n"


@clause("run.v2")
def test_v3_false_or_not_given_is_python_2(box_python2: Box) -> None:
    assert box_python2.run({"code": VERSION, "v3": False})["stdout"] == "2\n"
    assert box_python2.run({"code": VERSION})["stdout"] == "2\n"
    assert box_python2.run(VERSION)["stdout"] == "2\n"


@clause("run.no-python2")
def test_python_2_where_there_is_none_is_an_error_that_says_so(box: Box) -> None:
    with pytest.raises(Exception, match=r"no Python 2.*3\.\d+") as caught:
        box.run({"code": VERSION, "v3": False})
    assert isinstance(caught.value, ValueError)


@clause("answer.names")
@pytest.mark.parametrize("code", ["print(1)", "1/0", "import time; time.sleep(9)"])
def test_the_documented_names_and_their_types(box: Box, code: str) -> None:
    answer = box.run({"code": code, "timeoutMs": 1_000})
    assert {name: type(answer.get(name)) for name in ("stdout", "stderr", "combined", "isError", "timedOut")} == {
        **dict.fromkeys(("stdout", "stderr", "combined"), str),
        **dict.fromkeys(("isError", "timedOut"), bool),
    }


TEXTS = ["", "no newline", "one\ntwo\n\n", "\r\n\t\0\x1b[1m", "äöü € 🦋 שלום", "x" * 300_000, "line\n" * 40_000]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
@pytest.mark.parametrize(
    "stream", [pytest.param("stdout", marks=clause("answer.stdout")), pytest.param("stderr", marks=clause("answer.stderr"))]
)
def test_output_is_whole_and_to_the_byte(box: Box, stream: str, text: str) -> None:
    other = "stderr" if stream == "stdout" else "stdout"
    code = f"import sys\ntext = {text[:40]!r} if {len(text)} <= 40 else {text[:5]!r} * {len(text) // 5}\nsys.{stream}.buffer.write(text.encode())"
    answer = box.run(code)
    assert answer[stream] == text
    assert (answer[other], answer["combined"], answer["isError"]) == ("", text, False)


@clause("answer.combined")
def test_combined_has_both_streams_in_order(box: Box) -> None:
    code = "import sys, time\nfor n in range(4):\n    print(n, file=(sys.stdout, sys.stderr)[n % 2], flush=True)\n    time.sleep(0.7)"
    answer = box.run(code)
    assert (answer["stdout"], answer["stderr"], answer["combined"]) == ("0\n2\n", "1\n3\n", "0\n1\n2\n3\n")


@clause("answer.combined")
def test_combined_loses_nothing_of_two_busy_streams(box: Box) -> None:
    code = "import os\nfor n in range(2000):\n    os.write(1, b'o%04d\\n' % n); os.write(2, b'e%04d\\n' % n)"
    answer = box.run(code)
    lines = answer["combined"]
    assert len(lines) == len(answer["stdout"]) + len(answer["stderr"]) == 24_000
    for letter, stream in (("o", "stdout"), ("e", "stderr")):
        assert answer[stream] == "".join(f"{letter}{number:04}\n" for number in range(2000))


@clause("answer.is-error", "answer.timed-out")
@pytest.mark.parametrize(
    ("code", "is_error", "timed_out"),
    [
        ("print(1)", False, False),
        ("import sys; sys.exit(0)", False, False),
        ("import sys; print('failed', file=sys.stderr)", False, False),
        ("import sys; sys.exit(1)", True, False),
        ("1/0", True, False),
        ("import os; os.kill(os.getpid(), 9)", True, False),
        ("import time; time.sleep(60)", True, True),
        ("while True: pass", True, True),
    ],
)
def test_is_error_and_timed_out(box: Box, code: str, is_error: bool, timed_out: bool) -> None:
    answer = box.run({"code": code, "timeoutMs": 1_000 if timed_out else 10_000})
    assert (answer["isError"], answer["timedOut"]) == (is_error, timed_out)


@clause("failure.syntax")
@pytest.mark.parametrize("code", ["print(", "def f():\nreturn", "x = = 1", "'unterminated", "print 'two'"])
def test_a_syntax_error_is_a_result(box: Box, code: str) -> None:
    answer = box.run(code)
    assert (answer["isError"], answer["timedOut"], answer["stdout"]) == (True, False, "")
    assert "SyntaxError" in answer["stderr"] or "IndentationError" in answer["stderr"]
    assert 'main.py", line ' in answer["stderr"]


@clause("failure.exception")
def test_an_uncaught_exception_is_a_result(box: Box) -> None:
    answer = box.run("print('before')\ndef fail():\n    raise KeyError('nothing here')\nfail()")
    assert (answer["isError"], answer["timedOut"], answer["stdout"]) == (True, False, "before\n")
    assert answer["stderr"].startswith("Traceback (most recent call last):\n")
    assert "line 3, in fail\n" in answer["stderr"]
    assert answer["stderr"].endswith("KeyError: 'nothing here'\n")


@clause("failure.exit", "answer.outcome")
@pytest.mark.parametrize(
    ("argument", "code"),
    [("0", 0), ("", 0), ("None", 0), ("1", 1), ("7", 7), ("255", 255), ("256", 0), ("-1", 255), ("'why'", 1), ("2.5", 1)],
)
def test_sys_exit(box: Box, argument: str, code: int) -> None:
    answer = box.run(f"import sys; sys.exit({argument})")
    assert (answer["exitCode"], answer["isError"], answer["outcome"]) == (code, code != 0, "error" if code else "ok")


@clause("failure.signal", "answer.outcome")
@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 13, 15])
def test_death_by_signal(box: Box, number: int) -> None:
    code = f"import os, signal\nif {number} not in (9,): signal.signal({number}, signal.SIG_DFL)\nos.kill(os.getpid(), {number})"
    answer = box.run(f"print('before', flush=True)\n{code}")
    assert (answer["isError"], answer["outcome"], answer["signal"], answer["exitCode"]) == (True, "signal", number, None)
    assert answer["stdout"] == "before\n"


@clause("failure.memory", "answer.outcome")
def test_a_program_over_the_memory_limit_is_stopped_and_reported(box: Box) -> None:
    # Not without an end: where the limit is not kept, this must end too.
    answer = box.run("print('before', flush=True)\nhog = [bytearray(b'x' * 1_000_000) for _ in range(300)]\nprint('survived')")
    assert (answer["isError"], answer["timedOut"], answer["stdout"]) == (True, False, "before\n")
    assert answer["outcome"] == "out_of_memory"


@clause("failure.memory-error")
def test_one_oversized_allocation_is_a_memory_error(box: Box, gvisor: bool) -> None:
    answer = box.run("print('before', flush=True)\nhog = bytearray(2_000_000_000)\nprint('survived')")
    if gvisor:
        assert (answer["isError"], answer["outcome"], answer["stdout"]) == (True, "out_of_memory", "before\n")
        not_applicable("gVisor does not enforce RLIMIT_DATA: the program is stopped as out of memory, and that is reported")
    assert (answer["isError"], answer["outcome"], answer["stdout"]) == (True, "error", "before\n")
    assert answer["stderr"].endswith("MemoryError\n")


@clause("answer.outcome")
def test_a_program_cannot_pass_for_another_end(box: Box) -> None:
    disguised = box.run("import sys; sys.stderr.write('MemoryError\\nKilled\\n'); sys.exit(137)")
    assert (disguised["outcome"], disguised["exitCode"], disguised["signal"]) == ("error", 137, None)
    late = box.run({"code": "import atexit, os, signal, time\nsignal.signal(15, lambda *_: os._exit(0))\ntime.sleep(60)", "timeoutMs": 500})
    assert (late["outcome"], late["timedOut"], late["isError"]) == ("timeout", True, True)


BAD = [
    {},
    {"code": 1},
    {"code": "print(1)", "timeoutMs": 0},
    {"code": "print(1)", "timeoutMs": -1},
    {"code": "print(1)", "timeoutMs": "1"},
    {"code": "print(1)", "v3": "yes"},
    {"code": "print(1)", "unknown": 1},
    1,
    None,
]


@clause("limit.bad-job")
def test_a_job_that_makes_no_sense_costs_no_container(new_box: NewBox) -> None:
    box = new_box()
    for job in BAD:
        with pytest.raises((TypeError, ValueError)):
            box.run(job)  # type: ignore[arg-type]
    box.seen.catch_up()
    assert box.seen.which(DIED) == set()
    assert len(box.seen.history()) == 1
