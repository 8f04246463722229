"""Judging: one submission, many cases, and a verdict that nothing but its output decides."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from conformance.conftest import Box, NewBox
from conformance.report import clause

ADD_ONE = "print(int(input()) + 1)"


def cases(count: int, **each: Any) -> list[dict[str, Any]]:
    return [{"stdin": str(number), "expected": str(number + 1), "name": str(number), **each} for number in range(count)]


def verdicts(report: dict[str, Any]) -> list[str]:
    return [case["verdict"] for case in report["cases"]]


@clause("judge.verdicts")
@pytest.mark.parametrize(
    ("code", "limits", "verdict"),
    [
        (ADD_ONE, {}, "accepted"),
        ("print(input())", {}, "wrong_answer"),
        ("1 / 0", {}, "runtime_error"),
        ("print(1); raise SystemExit(3)", {}, "runtime_error"),
        ("print(1, flush=True); import os; os.abort()", {}, "runtime_error"),
        ("import time; time.sleep(60)", {"wallMs": 500}, "time_limit"),
        ("x = [bytearray(b'x' * 10**6) for _ in range(300)]", {}, "memory_limit"),
        ("while True: print('x' * 1_000)", {"outputBytes": 10_000}, "output_limit"),
    ],
)
def test_a_verdict_follows_from_the_end(box: Box, code: str, limits: dict[str, Any], verdict: str) -> None:
    report = box.sandbox.judge(code, cases(1, limits=limits))
    assert (report["verdict"], verdicts(report), report["passed"]) == (verdict, [verdict], int(verdict == "accepted"))


@clause("judge.verdicts")
def test_the_first_failure_in_order_is_the_verdict(box: Box) -> None:
    code = "n = int(input())\nif n == 2: raise SystemExit(1)\nprint(n if n == 1 else n + 1)"
    report = box.sandbox.judge(code, cases(4))
    assert verdicts(report) == ["accepted", "wrong_answer", "runtime_error", "accepted"]
    assert (report["verdict"], report["passed"], report["total"]) == ("wrong_answer", 2, 4)


SEARCH = """
import glob, os
secret = b"very-" + b"secret"
found = []
for place in ("/sandbox", "/tmp", "/dev/shm", "/run", "/var", "/home", "/proc/[0-9]*/environ", "/proc/[0-9]*/cmdline", "/proc/[0-9]*/fd"):
    for path in [place, *glob.glob(place), *glob.glob(place + "/**", recursive=True)]:
        try:
            if os.path.isfile(path) and secret in open(path, "rb").read(1_000_000):
                found.append(os.path.basename(path))
        except OSError:
            pass
print(sorted(set(found)))  # gVisor shows the working directory again in /proc/1/fd
"""


@clause("judge.secret")
def test_nothing_is_in_the_container_but_the_case_s_own(box: Box) -> None:
    secret = "very-secret"
    given: list[dict[str, Any]] = [
        {"expected": secret},
        {"stdin": secret, "filesText": {"own.txt": secret}, "expected": "['own.txt']"},
        {"expected": "[]"},
        {"stdin": secret, "filesText": {"later.txt": secret}},
    ]
    report = box.sandbox.judge(SEARCH, given)
    assert [case["result"]["stdout"] for case in report["cases"]] == ["[]\n", "['own.txt']\n", "[]\n", "['later.txt']\n"]


@clause("judge.order")
@pytest.mark.parametrize("concurrency", [1, 3])
def test_cases_are_reported_in_their_order(new_box: NewBox, concurrency: int) -> None:
    box = new_box(pool_size=3)
    code = "import time\nn = int(input())\ntime.sleep(0 if n % 2 else 0.5)\nprint(n if n == 3 else n + 1)"
    told: list[dict[str, Any]] = []
    report = box.sandbox.judge(code, cases(6), concurrency=concurrency, stop="first", told=told.append)
    assert [case["name"] for case in report["cases"]] == [str(number) for number in range(6)]
    assert verdicts(report) == ["accepted"] * 3 + ["wrong_answer"] + ["skipped"] * 2
    assert [(case["name"], case["verdict"]) for case in told] == [(case["name"], case["verdict"]) for case in report["cases"]]


@clause("judge.compile")
@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_is_not_python_is_a_compile_error(box: Box, concurrency: int) -> None:
    told: list[dict[str, Any]] = []
    report = box.sandbox.judge("x = (", cases(3), concurrency=concurrency, told=told.append)
    assert (report["verdict"], verdicts(report)) == ("compile_error", ["skipped"] * 3)
    assert "SyntaxError" in report["feedback"]
    assert [case["verdict"] for case in told] == ["skipped"] * 3


@clause("judge.compile")
def test_a_program_that_says_so_is_not_one(box: Box) -> None:
    forged = "import sys; sys.stderr.write('SyntaxError: x'); sys.exit(1)"
    assert verdicts(box.sandbox.judge(forged, cases(2))) == ["runtime_error"] * 2


APART = """
import os, sys
given, output, answer = (open(name).read() for name in sys.argv[1:])
sys.exit(int(output) == os.getuid())
"""


@clause("judge.checker-apart")
def test_a_checker_is_in_another_container(box: Box) -> None:
    report = box.sandbox.judge("import os; print(os.getuid())", cases(3), checker={"type": "program", "code": APART})
    assert verdicts(report) == ["accepted"] * 3


@clause("judge.checker-apart")
@pytest.mark.parametrize("code", ["1 / 0", "import sys; sys.exit(7)", "import os; os.abort()"])
def test_a_checker_that_fails_decides_nothing(box: Box, code: str) -> None:
    report = box.sandbox.judge(ADD_ONE, cases(1), checker={"type": "program", "code": code})
    assert verdicts(report) == ["judge_error"]


@clause("judge.judge-error")
def test_a_lost_container_costs_its_case_alone(new_box: NewBox) -> None:
    box = new_box()
    begun = threading.Event()

    def kill() -> None:
        assert begun.wait(60)
        time.sleep(1)
        for container in box.seen.listed("running"):
            box.seen.oracle.call("POST", f"/containers/{container}/kill", ok=False)

    thread = threading.Thread(target=kill)
    thread.start()
    code = "import time\nn = int(input())\ntime.sleep(4 if n == 1 else 0)\nprint(n + 1)"
    report = box.sandbox.judge(code, cases(3), told=lambda _: begun.set())
    thread.join()
    assert report["cases"][1]["verdict"] == "judge_error"
    assert verdicts(report) == ["accepted", "judge_error", "accepted"]
    assert report["cases"][1]["retrySafe"] is False
    assert report["cases"][1]["error"]
