"""Judging without a container: cases, verdicts, scores, the plan, and what becomes of a checker's
report."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly import Job, Outcome, Result
from dayfly._judge_view import _line
from dayfly.judge import Answer, Call, Case, CaseLimits, CaseResult, Cases, Group, Interactor, Json, Program, Tokens, Verdict, kattis, lcb
from dayfly.judge._cases import check_cases, check_checkers
from dayfly.judge._plan import Plan
from dayfly.judge._programs import HARNESS, NOT_PYTHON, SYNTAX_CHECK, may_be_invalid, returned, submission_job, syntax_job
from dayfly.judge._verdicts import report, verdict_of


def result(outcome: Outcome = Outcome.OK, **changes: Any) -> Result:
    values: dict[str, Any] = {
        "stdout": "",
        "stderr": "",
        "combined": "",
        "is_error": outcome is not Outcome.OK,
        "timed_out": False,
        "exit_code": 0 if outcome is Outcome.OK else 1,
        "signal": None,
        "stdout_truncated": False,
        "stderr_truncated": False,
    }
    return Result(outcome=outcome, **{**values, **changes})


# Cases.


def test_bytes_and_text_are_two_ways_to_say_the_same() -> None:
    case = Case(stdin=b"\xff", expected=b"\xfe")
    assert (case.input, case.expected_output, case.compares) == (b"\xff", b"\xfe", True)
    case = Case(stdin="é", expected="é")
    assert (case.input, case.expected_output, case.compares) == ("é".encode(), "é".encode(), True)
    assert (Case().input, Case().expected_output, Case().compares) == (b"", b"", False)


def test_a_call_s_values_are_json_values() -> None:
    case = Case(call=Call("f", [1, (2,)], {"k": None}), expected=(1, [2]))
    assert case.expected == [1, [2]]
    assert case.harness == {"function": "f", "args": [1, (2,)], "kwargs": {"k": None}}
    assert Case(call=Call("f")).compares is False
    assert Case(asserts="assert f()").harness == {"asserts": "assert f()"}


NESTED: Any = 1
for _ in range(200):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Case(expected=1), "expected must be a str or bytes"),
        (lambda: Case(expected="a", expected_bytes=b"b"), "both given"),
        (lambda: Case(stdin="a", stdin_bytes=b"b"), "both given"),
        (lambda: Case(call=Call("f"), args=["a"]), "has no args"),
        (lambda: Case(call=Call("f"), expected=b"x"), "not bytes"),
        (lambda: Case(call=Call("f"), expected=float("nan")), "must be a JSON value"),
        (lambda: Case(call=Call("f", [float("inf")])), "must be a JSON value"),
        (lambda: Case(call=Call("f", [object()])), "must be a JSON value"),
        (lambda: Case(call=Call("f"), expected=NESTED), "nested deeper than 100"),
        (lambda: Case(call=Call("f"), files={"submission.py": "x"}), "is the submission"),
        (lambda: Case(asserts="x", files_text={"submission.py": "x"}), "is the submission"),
        (lambda: Case(asserts=1), "asserts must be a str"),  # type: ignore[arg-type]
        (lambda: Case(asserts="x", call=Call("f")), "neither call nor expected"),
        (lambda: Case(asserts="x", expected="1"), "neither call nor expected"),
        (lambda: Case(name="a\n"), "printable"),
        (lambda: Case(group=1), "printable"),  # type: ignore[arg-type]
        (lambda: Case(points=-1), "points"),
        (lambda: Case(files={"../x": "y"}), "has a part"),
        (lambda: Call("no name"), "name of a function"),
        (lambda: Call("f", "ab"), "sequence"),
        (lambda: Call("f", kwargs=1), "mapping"),  # type: ignore[arg-type]
        (lambda: CaseLimits(cpu_ms=0), "cpu_ms"),
        (lambda: CaseLimits(output_bytes=0), "output_bytes"),
        (lambda: Group("a", require="b"), "not a str"),
        (lambda: Group("a", score="best"), "score"),  # type: ignore[arg-type]
        (lambda: Group("a", points=-1), "points"),
        (lambda: check_cases("ab", []), "must be a sequence"),  # type: ignore[arg-type]
        (lambda: check_cases([], []), "from 1 to"),
        (lambda: check_cases(["a"], []), "must hold Case"),  # type: ignore[list-item]
        (lambda: check_cases([Case()], [Group("a"), Group("a")]), "there twice"),
        (lambda: Group("a", require=5), "not a int"),  # type: ignore[arg-type]
        (lambda: Case(call="f"), "call must be Call or None, not str"),  # type: ignore[arg-type]
        (lambda: Case(limits=5), "limits must be CaseLimits or None, not int"),  # type: ignore[arg-type]
        (lambda: Case(stdin=0), "stdin must be str or None, not int"),  # type: ignore[arg-type]
        (lambda: Case(expected_bytes=5), "expected_bytes must be bytes or None, not int"),  # type: ignore[arg-type]
        (lambda: Case(checker="floats"), "a Checker or a function, not str"),  # type: ignore[arg-type]
        (lambda: check_cases([Case()], ["a"]), "groups must be a sequence of Group"),  # type: ignore[list-item]
        (lambda: check_cases([Case(group="a")], [Group("a", require=["a"])]), "come before"),
        (lambda: check_cases([Case()], [Group("a", require=["b"])]), "has no cases"),
        (lambda: check_cases([Case(group="a"), Case(group="b")], [Group("a", require=["b"])]), "come before"),
        (lambda: check_checkers([Case(call=Call("f"))], Tokens()), "use Json or SetEq"),
        (lambda: check_checkers([Case(asserts="x")], Interactor(code="1")), "has asserts"),
        (lambda: check_checkers([Case(asserts="x", checker=Interactor(code="1"))], None), "has asserts"),
        (lambda: Program(code=1), "code must be a str"),  # type: ignore[arg-type]
        (lambda: Program(code="1", protocol="x"), "protocol"),  # type: ignore[arg-type]
    ],
    ids=itertools.count(),
)
def test_what_cannot_be_judged_is_refused(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_limits_of_a_case_go_over_the_judging_s() -> None:
    both = CaseLimits(cpu_ms=1).over(CaseLimits(cpu_ms=2, wall_ms=3, output_bytes=4))
    assert both == CaseLimits(cpu_ms=1, wall_ms=3, output_bytes=4)
    assert CaseLimits(wall_ms=1, output_bytes=2).over(CaseLimits(cpu_ms=3)) == CaseLimits(cpu_ms=3, wall_ms=1, output_bytes=2)


def test_a_limit_of_processor_time_implies_one_of_wall_time() -> None:
    assert CaseLimits(wall_ms=5, cpu_ms=1_000).wall(7) == 5
    assert CaseLimits(cpu_ms=1_000).wall(7) == 4_000
    assert CaseLimits().wall(7) == 7


def test_cases_that_fit_are_accepted() -> None:
    cases = [Case(group="a"), Case(group="b"), Case(call=Call("f"), checker=Json())]
    check_cases(cases, [Group("b", require=["a"]), Group("c")])
    check_checkers(cases, Tokens())


# Verdicts.


@pytest.mark.parametrize(
    ("given", "answer", "verdict"),
    [
        (result(), None, Verdict.ACCEPTED),
        (result(), Answer(1.0), Verdict.ACCEPTED),
        (result(), Answer(0.5), Verdict.PARTIAL),
        (result(), Answer(0.0), Verdict.WRONG_ANSWER),
        (result(stdout_truncated=True), Answer(1.0), Verdict.OUTPUT_LIMIT),
        (result(stderr_truncated=True), Answer(1.0), Verdict.OUTPUT_LIMIT),
        (result(Outcome.ERROR), None, Verdict.RUNTIME_ERROR),
        (result(Outcome.SIGNAL), Answer(1.0), Verdict.RUNTIME_ERROR),
        (result(Outcome.TIMEOUT), Answer(1.0), Verdict.TIME_LIMIT),
        (result(Outcome.OUT_OF_MEMORY), Answer(1.0), Verdict.MEMORY_LIMIT),
        (result(Outcome.OUTPUT_LIMIT), Answer(1.0), Verdict.OUTPUT_LIMIT),
    ],
)
def test_a_verdict_follows_from_outcome_and_answer(given: Result, answer: Answer | None, verdict: Verdict) -> None:
    assert verdict_of(given, answer) is verdict
    assert str(verdict) == verdict.value


def found(verdict: Verdict, group: str = "", points: float = 1.0, share: float | None = None) -> CaseResult:
    earned = points * (share if share is not None else verdict is Verdict.ACCEPTED)
    return CaseResult(verdict=verdict, name="", group=group, points=earned, max_points=points)


def test_the_first_failure_is_the_verdict() -> None:
    cases = [Case(), Case(), Case(), Case()]
    told = report(cases, [], {0: found(Verdict.ACCEPTED), 2: found(Verdict.TIME_LIMIT), 3: found(Verdict.WRONG_ANSWER)}, wall_ms=5.0)
    assert told.verdict is Verdict.TIME_LIMIT
    assert (told.passed, told.total, told.score, told.max_score, told.wall_ms) == (1, 4, 1.0, 4.0, 5.0)
    assert told.counts == {"accepted": 1, "skipped": 1, "time_limit": 1, "wrong_answer": 1}
    assert told.cases[1].exception is None
    assert json.loads(told.to_json())["cases"][2]["verdict"] == "time_limit"
    assert report([Case()], [], {0: found(Verdict.ACCEPTED)}).verdict is Verdict.ACCEPTED


def test_a_compile_error_skips_every_case() -> None:
    told = report([Case(), Case()], [], {0: found(Verdict.RUNTIME_ERROR)}, compile_error="SyntaxError")
    assert (told.verdict, told.counts, told.feedback, told.score) == (Verdict.COMPILE_ERROR, {"skipped": 2}, "SyntaxError", 0.0)


def test_groups_score_as_they_say() -> None:
    cases = [Case(group=name, points=2) for name in ("all", "min", "sum", "") for _ in range(2)]
    groups = [Group("all", score="all", points=10), Group("min", score="min"), Group("sum")]
    good, half, bad = found(Verdict.ACCEPTED, points=2), found(Verdict.PARTIAL, points=2, share=0.5), found(Verdict.WRONG_ANSWER, points=2)

    def score(*results: CaseResult) -> tuple[float, float]:
        named = {index: msgspec.structs.replace(one, group=cases[index].group) for index, one in enumerate(results)}
        told = report(cases, groups, named)
        return told.score, told.max_score

    assert score(*[good] * 8) == (10 + 4 + 4 + 4, 22.0)
    assert score(good, half, good, half, good, half, good, half) == (0 + 4 * 0.5 + 3 + 3, 22.0)
    assert score(*[bad] * 8) == (0.0, 22.0)
    assert (
        report([Case(points=0, group="min")], [Group("min", score="min", points=3)], {0: found(Verdict.PARTIAL, "min", 0.0)}).score == 0.0
    )


def test_the_command_shows_wall_time_where_there_is_no_other() -> None:
    case = msgspec.structs.replace(found(Verdict.ACCEPTED), name="a", wall_ms=12.34)
    assert [word for word in _line(case).plain.split(" ") if word] == ["accepted", "a", "12.3", "ms"]
    both = msgspec.structs.replace(case, cpu_ms=5.0, max_rss_bytes=7_000_000)
    assert [word for word in _line(both).plain.split(" ") if word] == ["accepted", "a", "12.3", "ms", "(5.0", "ms", "CPU)", "7.0", "MB"]


# The plan.


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=12),
    st.sampled_from(["first", "group", None]),
    st.integers(1, 4),
    st.booleans(),
    st.data(),
)
def test_any_number_of_workers_gives_the_same_report(
    drawn: list[tuple[str, bool]], stop: Any, workers: int, required: bool, data: st.DataObject
) -> None:
    drawn = sorted(drawn, key=lambda one: one[0]) if required else drawn
    cases = [Case(group=name) for name, _ in drawn]
    names = sorted({name for name, _ in drawn})
    groups = [Group(name, require=[before]) for before, name in itertools.pairwise(names)] if required else []

    def simulate(count: int) -> list[int]:
        plan = Plan(cases, groups, stop)
        running: list[int] = []
        judged: set[int] = set()
        while not plan.over:
            while len(running) < count and (index := plan.begin()) is not None:
                running.append(index)
            if not running:
                assert plan.over, "it waits for nothing"
                break
            index = running.pop(data.draw(st.integers(0, len(running) - 1)))
            if not plan.is_skipped(index):
                judged.add(index)
            for other in plan.decide(index, accepted=plan.is_skipped(index) or drawn[index][1]):
                assert other in running
        assert plan.begin() is None
        return [index for index in sorted(judged) if not plan.is_skipped(index)]

    def slow() -> list[int]:
        failed: set[str] = set()
        kept: list[int] = []
        for index, (name, accepted) in enumerate(drawn):
            if stop == "first" and failed:
                break
            if stop == "group" and name in failed:
                continue
            if any(before in failed for group in groups if group.name == name for before in group.require):
                continue
            kept.append(index)
            if not accepted:
                failed.add(name)
        return kept

    assert simulate(workers) == slow()


def test_a_group_waits_for_what_it_requires() -> None:
    plan = Plan([Case(group="a"), Case(group="b")], [Group("b", require=["a"])], None)
    assert plan.begin() == 0
    assert plan.begin() is None
    assert not plan.over
    assert plan.decide(0, accepted=True) == set()
    assert plan.begin() == 1
    assert plan.decide(1, accepted=False) == set()
    assert plan.over


# What runs beside the submission.


def test_the_submission_is_the_program_or_a_module() -> None:
    plain = submission_job(Case(stdin="1", args=["a"]), b"print(1)", timeout_ms=5, cpu_limit_ms=None)
    assert (plain.source, plain.stdin_bytes, plain.args, plain.timeout_ms, plain.v3) == (b"print(1)", b"1", ("a",), 5, True)
    called = submission_job(Case(call=Call("f", [1]), files={"x": "y"}), b"def f(): ...", timeout_ms=5, cpu_limit_ms=7)
    assert called.source == HARNESS.encode()
    assert called.files == {"x": b"y", "submission.py": b"def f(): ..."}
    assert (called.data, called.cpu_limit_ms) == ({"function": "f", "args": [1], "kwargs": {}}, 7)


def test_the_syntax_check_runs_nothing(tmp_path: Path) -> None:
    job = syntax_job(b"x")
    assert (job.source, job.files) == (SYNTAX_CHECK.encode(), {"submission.py": b"x"})
    assert str(NOT_PYTHON) in SYNTAX_CHECK
    assert may_be_invalid(result(Outcome.ERROR, stderr="  File\nSyntaxError: invalid syntax\n"))
    assert not may_be_invalid(result(Outcome.ERROR, stderr="ValueError: x"))
    assert not may_be_invalid(result(Outcome.ERROR, stderr="SyntaxError: x", stdout="1"))
    assert not may_be_invalid(result(stderr="SyntaxError: x"))
    assert not may_be_invalid(result(Outcome.SIGNAL))
    # What it says may be missing where it was killed, or where its output was cut.
    assert may_be_invalid(result(Outcome.OUTPUT_LIMIT, stderr="  Fi", stderr_truncated=True, exit_code=None))
    assert may_be_invalid(result(Outcome.ERROR, stderr="  Fi", stderr_truncated=True))
    assert not may_be_invalid(result(Outcome.ERROR, stderr="  Fi"))
    assert not may_be_invalid(result(Outcome.ERROR, stderr="  Fi", stderr_truncated=True, exit_code=2))


def test_the_last_message_of_the_harness_is_the_value() -> None:
    def sent(*texts: bytes) -> Result:
        return result(messages_raw=[msgspec.Raw(text) for text in texts])

    assert returned(sent()) is None
    assert returned(sent(b"1", b'{"returned": 1, "x": 2}')) is None
    assert returned(sent(b'{"returned": 1}', b'{"returned": null}', b"2")) == (None,)


CASE = Case(stdin="in", expected="ans", points=10)


def test_a_checker_program_gets_three_files() -> None:
    job = Program(code="x", args=["-a"]).job(CASE, b"out")
    assert job.files == {"checker.py": b"x", "input": b"in", "answer": b"ans", "output": b"out"}
    assert (job.args, job.stdin_bytes, job.fetch) == (("input", "output", "answer", "-a"), None, ())
    job = Program(code="x", protocol="kattis").job(CASE, b"out")
    assert (job.args, job.stdin_bytes, job.fetch) == (("input", "answer", "feedback/"), b"out", ("feedback/*.txt",))
    assert isinstance(job, Job)


def test_an_interactor_gets_no_output() -> None:
    job = Interactor(code="x", args=["-a"]).job(CASE)
    assert job.files == {"checker.py": b"x", "input": b"in", "answer": b"ans"}
    assert job.args == ("input", "answer", "-a")
    job = Interactor(code="x", protocol="kattis").job(CASE)
    assert (job.args, job.stdin_bytes) == (("input", "answer", "feedback/"), b"")
    told = Interactor(code="x").answer(CASE, result(Outcome.ERROR, exit_code=1, stdout="talk", stderr="why\n"))
    assert told == Answer(0.0, "why")


@pytest.mark.parametrize(
    ("protocol", "code", "changes", "answer"),
    [
        ("exit01", 0, {"stdout": "fine\n"}, Answer(1.0, "fine")),
        ("exit01", 1, {"stderr": "no"}, Answer(0.0, "no")),
        ("exit01", 1, {"stdout": "\x1b[2J\u202e\n1"}, Answer(0.0, "\ufffd[2J\ufffd\n1")),
        ("testlib", 0, {}, Answer(1.0)),
        ("testlib", 1, {}, Answer(0.0)),
        ("testlib", 2, {}, Answer(0.0)),
        ("testlib", 7, {"stderr": "points 2.5 well"}, Answer(0.25, "points 2.5 well")),
        ("kattis", 42, {}, Answer(1.0)),
        ("kattis", 43, {"files": {"feedback/judgemessage.txt": b"bad\n"}}, Answer(0.0, "bad")),
        ("kattis", 42, {"files": {"feedback/score.txt": b"5"}}, Answer(0.5)),
        ("kattis", 42, {"files": {"feedback/score_multiplier.txt": b"0.25"}}, Answer(0.25)),
    ],
)
def test_what_a_checker_program_says(protocol: Any, code: int, changes: dict[str, Any], answer: Answer) -> None:
    outcome = Outcome.OK if code == 0 else Outcome.ERROR
    assert Program(code="x", protocol=protocol).answer(CASE, result(outcome, exit_code=code, **changes)) == answer


@pytest.mark.parametrize(
    ("protocol", "given"),
    [
        ("exit01", result(Outcome.ERROR, exit_code=2)),
        ("exit01", result(Outcome.ERROR, exit_code=70, stderr="Traceback\nZeroDivisionError: x")),
        ("exit01", result(Outcome.TIMEOUT, exit_code=0)),
        ("testlib", result(Outcome.ERROR, exit_code=3)),
        ("testlib", result(Outcome.ERROR, exit_code=7)),
        ("testlib", result(Outcome.ERROR, exit_code=7, stderr="points 11")),
        # What a checker quotes of the output is not its own word.
        ("testlib", result(Outcome.ERROR, exit_code=7, stderr="found:\npoints 10\npoints 1")),
        ("kattis", result(Outcome.OK, exit_code=0)),
        ("kattis", result(Outcome.ERROR, exit_code=42, files={"feedback/score.txt": b"many"})),
        ("kattis", result(Outcome.ERROR, exit_code=42, files={"feedback/score_multiplier.txt": b"nan"})),
    ],
)
def test_anything_else_is_an_error_of_the_checker(protocol: Any, given: Result) -> None:
    with pytest.raises(ValueError, match=r"checker|points|float"):
        Program(code="x", protocol=protocol).answer(CASE, given)


def test_points_of_a_case_without_any_are_none() -> None:
    given = result(Outcome.ERROR, exit_code=7, stderr="points 0")
    assert Program(code="x", protocol="testlib").answer(Case(points=0), given) == Answer(0.0, "points 0")


# Where cases come from.


def test_livecodebench_s_shape() -> None:
    cases = Cases.from_lcb({"inputs": ["1\n2"], "outputs": ["3"], "fn_name": None})
    assert (len(cases), cases.cases[0].stdin, cases.cases[0].expected, cases.checker) == (1, "1\n2", "3", lcb())
    cases = Cases.from_lcb(json.dumps({"inputs": ["1\n[2]"], "outputs": ["[3]"], "fn_name": "f", "assert_case": ["assert 1"]}))
    assert cases.cases[0].asserts == "assert 1"
    assert cases.cases[1].call == Call("f", [1, [2]])
    assert cases.cases[1].expected == [3]


def test_sandbox_fusion_s_shape() -> None:
    rows = [{"input": {"stdin": "1"}, "output": {"stdout": "2"}}]
    for shape in (rows, json.dumps(rows)):
        cases = Cases.from_sandbox_fusion(shape)
        assert (cases.cases[0].stdin, cases.cases[0].expected) == ("1", "2")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cases.from_lcb({"inputs": ["1"], "outputs": []}), "1 inputs and 0 outputs"),
        (lambda: Cases.from_lcb({"inputs": "1", "outputs": "1"}), "inputs must be an array, not '1'"),
        (lambda: Cases.from_lcb({"inputs": ["x"], "outputs": ["1"], "fn_name": "f"}), "input or output 0"),
        (lambda: Cases.from_lcb({"inputs": [1], "outputs": ["1"], "fn_name": "f"}), "input or output 0"),
        (lambda: Cases.from_lcb({"cases": []}), "an object with inputs"),
        (lambda: Cases.from_lcb("[1]"), "an object with inputs"),
        (lambda: Cases.from_sandbox_fusion([{"input": {}}]), "input.stdin"),
        (lambda: Cases.from_sandbox_fusion("[]"), "from 1 to"),
    ],
    ids=itertools.count(),
)
def test_other_shapes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_a_folder_of_pairs(tmp_path: Path) -> None:
    files = {"b.in": "2", "b.out": "B", "a.in": "1", "a.ans": "A", "a.args": "-x 'y z'", "a.files/sub/f": "F"}
    cases = Cases.from_folder(write(tmp_path, files)).cases
    assert [(case.name, case.input, case.expected_output) for case in cases] == [("a", b"1", b"A"), ("b", b"2", b"B")]
    assert (cases[0].args, cases[0].files) == (["-x", "y z"], {"sub/f": b"F"})


PROBLEM = {
    "problem.yaml": "problem_format_version: 2025-09\ntype: scoring\nlimits: {time_limit: 1.5, output: 2}\n"
    "output_validator_args: case_sensitive float_tolerance 1e-3 float_absolute_tolerance 0.1\n",
    "data/sample/1.in": "",
    "data/sample/1.ans": "",
    "data/secret/g1/1.in": "",
    "data/secret/g1/1.ans": "",
    "data/secret/g1/test_group.yaml": "max_score: 40\nscore_aggregation: min\nrequire_pass: sample\n",
    "data/secret/g2/1.in": "",
    "data/secret/g2/1.ans": "",
    "data/secret/g2/test_group.yaml": "max_score: 60\n",
    "data/secret/empty/readme": "",
}
LEGACY = {
    "problem.yaml": "type: scoring\nvalidator_flags: case_sensitive\n",
    "data/sample/1.in": "",
    "data/sample/1.ans": "",
    "data/secret/g1/1.in": "",
    "data/secret/g1/1.ans": "",
}
DEEP = {"data/secret/g1/x/1.in": "", "data/secret/g1/x/1.ans": ""}
NEW = "problem_format_version: 2025-09\n"


def test_a_problem_of_the_kattis_format(tmp_path: Path) -> None:
    found = Cases.from_folder(write(tmp_path, PROBLEM))
    assert [(case.name, case.points) for case in found.cases] == [("sample/1", 0.0), ("secret/g1/1", 40.0), ("secret/g2/1", 1.0)]
    g1 = Group("secret/g1", require=("sample",), score="min", points=40.0)
    assert list(found.groups) == [Group("sample"), g1, Group("secret/g2", score="all", points=60.0)]
    assert found.limits == CaseLimits(cpu_ms=1_500, output_bytes=2 * 2**20)
    assert found.checker == kattis(case_sensitive=True, float_absolute=0.1, float_relative=1e-3)


def test_every_case_below_a_group_is_judged(tmp_path: Path) -> None:
    names = ("sample/a/1", "secret/g/2", "secret/g/sub/1", "secret/g/sub/deep/3", "secret/.hidden/1", "secret/g/2.files/x")
    files = {f"data/{name}{suffix}": name for name in names for suffix in (".in", ".ans")}
    for version, sample in ((NEW, "sample"), ("", "sample/a")):
        cases = Cases.from_folder(write(tmp_path, {**files, "problem.yaml": version})).cases
        told = [(case.name, case.group) for case in cases]
        assert told == [("sample/a/1", sample), *((name, "secret/g") for name in names[1:4])]
        assert cases[1].files == {"x.in": b"secret/g/2.files/x", "x.ans": b"secret/g/2.files/x"}


def test_arguments_of_groups_and_cases_win(tmp_path: Path) -> None:
    files = {
        **PROBLEM,
        "problem.yaml": NEW,
        "data/secret/g1/test_group.yaml": "args: [-a, b c]\noutput_validator_args: [case_sensitive]\n",
        "data/secret/g1/2.in": "",
        "data/secret/g1/2.ans": "",
        "data/secret/g1/2.yaml": "args: [x]\noutput_validator_args: [float_tolerance, '0.5']\nhint: none\n",
        "data/secret/g2/test_group.yaml": "",
    }
    found = Cases.from_folder(write(tmp_path, files))
    told = [(case.name, list(case.args), case.checker) for case in found.cases]
    assert found.checker == kattis()
    assert told == [
        ("sample/1", [], None),
        ("secret/g1/1", ["-a", "b c"], kattis(case_sensitive=True)),
        ("secret/g1/2", ["x"], kattis(float_absolute=0.5, float_relative=0.5)),
        ("secret/g2/1", [], None),
    ]
    assert list(found.groups) == [Group("sample"), Group("secret/g1", score="all"), Group("secret/g2", score="all")]


def test_a_legacy_group_s_settings_hold_below_it(tmp_path: Path) -> None:
    files = {
        **LEGACY,
        "data/testdata.yaml": "grader_flags: ignore_sample\nrange: 0 100\n",
        "data/secret/testdata.yaml": "output_validator_flags: float_tolerance 1\ngrader_flags: always_accept\n",
        "data/secret/g2/testdata.yaml": "accept_score: 20\ngrader_flags: min\n"
        "output_validator_flags: {name: v, flags: space_change_sensitive}\n",
        "data/secret/g2/1.in": "",
        "data/secret/g2/1.ans": "",
        "data/secret/g2/sub/1.in": "",
        "data/secret/g2/sub/1.ans": "",
        "data/secret/g2/sub/testdata.yaml": "output_validator_flags: ''\n",
        "data/secret/g3/testdata.yaml": "accept_score: 5\n",
        "data/secret/g3/1.in": "",
        "data/secret/g3/1.ans": "",
    }
    found = Cases.from_folder(write(tmp_path, files))
    assert found.checker == kattis(case_sensitive=True)
    told = {case.name: (case.points, case.checker) for case in found.cases}
    assert told == {
        "sample/1": (0.0, None),
        "secret/g1/1": (1.0, kattis(case_sensitive=True, float_absolute=1.0, float_relative=1.0)),
        "secret/g2/1": (20.0, kattis(case_sensitive=True, space_change_sensitive=True)),
        "secret/g2/sub/1": (20.0, None),
        "secret/g3/1": (5.0, None),
    }
    scores = {group.name: (group.score, group.points) for group in found.groups}
    assert scores == {"sample": ("sum", None), "secret/g1": ("sum", None), "secret/g2": ("min", 20.0), "secret/g3": ("all", None)}


def test_scores_of_the_newer_format(tmp_path: Path) -> None:
    secret = {
        "data/secret/1.in": "",
        "data/secret/1.ans": "",
        "data/secret/2.in": "",
        "data/secret/2.ans": "",
        "problem.yaml": NEW + "type: scoring",
    }
    found = Cases.from_folder(write(tmp_path, secret))
    assert ([case.points for case in found.cases], list(found.groups)) == ([50.0, 50.0], [Group("secret")])
    for text, score, points in (
        ("score_aggregation: min\nmax_score: 7", "min", 7.0),
        ("score_aggregation: pass-fail\nmax_score: unbounded", "all", 1.0),
    ):
        found = Cases.from_folder(write(tmp_path, {"data/secret/test_group.yaml": text}))
        assert (found.groups[0].score, found.cases[0].points) == (score, points)
    found = Cases.from_folder(write(tmp_path, {"problem.yaml": NEW, "data/secret/test_group.yaml": "score_aggregation: min"}))
    assert (found.groups[0], found.cases[0].points) == (Group("secret", score="min"), 1.0)


@pytest.mark.parametrize(
    ("folder", "text", "kind"),
    [
        ("output_validators/v", "validation: custom\n", Program),
        ("output_validators", "validation: custom score\n", Program),
        ("output_validators", "validation: custom interactive\n", Interactor),
        ("output_validators", "type: interactive\n", Interactor),
        ("output_validator", NEW, Program),
        ("output_validator", NEW + "type: [pass-fail, interactive]\n", Interactor),
        ("output_validators", NEW, Program),
        ("output_validator", "", Program),
    ],
)
def test_a_problem_with_a_validator_of_its_own(tmp_path: Path, folder: str, text: str, kind: Any) -> None:
    files = {
        "problem.yaml": text + "constants: {most: 7}\n",
        ".timelimit": "2",
        f"{folder}/check.py": "x < {{most}}",
        f"{folder}/README.md": "",
        "include/python3/given.py": "g",
        "data/secret/1.in": "",
        "data/secret/1.ans": "",
    }
    found = Cases.from_folder(write(tmp_path, files))
    assert found.checker == kind(code="x < 7", protocol="kattis")
    assert found.limits == CaseLimits(cpu_ms=2_000)
    assert [group.name for group in found.groups] == ["secret"]
    assert found.cases[0].files == {"given.py": b"g"}


def test_points_of_a_validator_are_summed(tmp_path: Path) -> None:
    files = {**LEGACY, "problem.yaml": "type: scoring\nvalidation: custom score", "output_validators/v.py": ""}
    assert {group.score for group in Cases.from_folder(write(tmp_path, files)).groups} == {"sum"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x": ""}, r"no file \*.in"),
        ({"a.in": ""}, "no answer beside it: a.ans or a.out"),
        ({"problem.yaml": ""}, r"no file \*.in in sample or secret"),
        ({**PROBLEM, "problem.yaml": "validator_flags: nonsense"}, "the default validator: it has no flag 'nonsense'"),
        ({**PROBLEM, "problem.yaml": "validator_flags: float_tolerance"}, "finite number"),
        ({**PROBLEM, "problem.yaml": "validator_flags: float_tolerance x"}, "could not convert"),
        ({**PROBLEM, "problem.yaml": "validator_flags: 1"}, "expected a string or a sequence"),
        ({**PROBLEM, "problem.yaml": "validation: custom"}, "no program"),
        ({**PROBLEM, "problem.yaml": "type: interactive"}, "interactive, and output_validators has no program"),
        ({**PROBLEM, "problem.yaml": "validation: custom multipass"}, "custom multipass"),
        ({**PROBLEM, "problem.yaml": "validation: default score"}, "default score"),
        ({**PROBLEM, "problem.yaml": "validation: odd"}, "odd"),
        ({**PROBLEM, "problem.yaml": NEW + "type: [pass-fail, multi-pass]"}, "type multi-pass"),
        ({**PROBLEM, "problem.yaml": NEW + "type: submit-answer"}, "type submit-answer"),
        ({**PROBLEM, "problem.yaml": "problem_format_version: 2031-01"}, "2031-01"),
        ({**PROBLEM, "problem.yaml": "grading: {objective: min}"}, "objective"),
        ({**PROBLEM, "problem.yaml": "grading: {on_reject: first}"}, "on_reject"),
        ({**PROBLEM, "problem.yaml": "time_limt: 3"}, "'time_limt'"),
        ({**PROBLEM, "problem.yaml": "limits: {validation_passes: 3}"}, "validation_passes"),
        ({**PROBLEM, "problem.yaml": "limits: 3"}, "limits must be a mapping, not 3"),
        ({**PROBLEM, "problem.yaml": "grading: max"}, "grading must be a mapping, not 'max'"),
        ({**PROBLEM, "problem.yaml": "constants: [1]"}, "constants must be a mapping"),
        ({**PROBLEM, "problem.yaml": "limits: {time_limit: [1]}"}, "time_limit must be a finite number"),
        ({**PROBLEM, "problem.yaml": "limits: {time_limit: yes}"}, "time_limit must be a finite number, not True"),
        ({**PROBLEM, "problem.yaml": "limits: {output: .inf}"}, "output must be a finite number, not inf"),
        ({**PROBLEM, "problem.yaml": "[1"}, "not valid YAML"),
        ({**PROBLEM, "problem.yaml": "[1]"}, "must hold a mapping"),
        ({**PROBLEM, "static_validator/v.py": ""}, "static_validator"),
        ({**PROBLEM, "output_validator/a.cpp": ""}, "must be one Python file"),
        ({**PROBLEM, "output_validator/a.py": "", "output_validators/b.py": ""}, "must be one Python file"),
        ({**PROBLEM, "problem.yaml": "", "output_validators/a.py": ""}, "lacks `validation: custom`"),
        ({**PROBLEM, "data/secret/g1/test_group.yaml": "score_aggregation: best"}, "score_aggregation"),
        ({**PROBLEM, "data/secret/g1/test_group.yaml": "static_validation_score: 3"}, "static_validation_score"),
        ({**PROBLEM, "data/secret/g1/test_group.yaml": "{score_aggregation: sum, max_score: unbounded}"}, "unbounded"),
        ({**PROBLEM, "data/secret/g1/test_group.yaml": "max_score: [30]"}, "max_score must be a finite number"),
        ({**PROBLEM, "data/secret/test_group.yaml": "score_aggregation: min"}, "can only be summed"),
        ({**PROBLEM, **DEEP, "data/secret/g1/x/test_group.yaml": ""}, "groups in groups"),
        ({**PROBLEM, "data/secret/g1/1.yaml": "timelimit: 3"}, "'timelimit'"),
        ({**LEGACY, "data/secret/g1/testdata.yaml": "grading: custom"}, "grader of the problem's own"),
        ({**LEGACY, "data/secret/g1/testdata.yaml": "grader_flags: avg"}, "grader_flags avg"),
        ({**LEGACY, "data/testdata.yaml": "grader_flags: max"}, "grader_flags max"),
        ({**LEGACY, "data/secret/testdata.yaml": "grader_flags: min"}, "can only be summed"),
        ({**LEGACY, "data/secret/g1/testdata.yaml": "reject_score: 1"}, "reject_score"),
        ({**LEGACY, "data/secret/g1/testdata.yaml": "accept_score: much"}, "accept_score must be a finite number"),
        ({**LEGACY, "problem.yaml": "", "data/testdata.yaml": "grader_flags: always_accept"}, "always_accept"),
        ({**LEGACY, **DEEP, "data/secret/g1/x/testdata.yaml": "accept_score: 3"}, "accept_score"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_judged(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cases.from_folder(write(tmp_path, files))


def test_without_pyyaml_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(ValueError, match=r"pip install 'dayfly\[judge\]'"):
        Cases.from_folder(write(tmp_path, PROBLEM))
