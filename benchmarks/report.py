"""From numbers to what a person reads: the targets, the table, the plots. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .contenders import OURS, PEERS, SINGLE_USE

Found = dict[str, Any]


def why(name: str) -> str:
    """What a reader must know of a contender; its name may say more after a comma."""
    return {**OURS, **PEERS}[name.partition(",")[0]].why


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share `q` of them lies; the nearest that was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The median."""
    return quantile(values, 0.5)


def rate(windows: Sequence[dict[str, float]], name: str = "runs_per_s") -> float:
    """The mean over windows of equal length."""
    return sum(window[name] for window in windows) / len(windows)


def best(found: Found, name: str) -> float:
    """The best sustained throughput of a contender, over all numbers of callers."""
    return max((rate(windows) for windows in found.get(name, {}).values()), default=0.0)


class Target:
    """One thing to reach: what was measured against a bound, and whether it holds."""

    def __init__(self, what: str, measured: float, bound: float, unit: str = "", *, least: bool = False) -> None:
        self.what, self.measured, self.bound, self.unit, self.least = what, measured, bound, unit, least
        self.met = measured >= bound if least else measured <= bound

    def row(self) -> str:
        """The row of the table."""
        sign = "≥" if self.least else "≤"
        return f"{self.what} | {sign} {self.bound:,.3g}{self.unit} | {self.measured:,.3g}{self.unit} | {'yes' if self.met else 'no'}"


def targets(found: Found) -> list[Target]:
    """What is to be reached, judged by the medians of one run."""
    made: list[Target] = []
    if warm := found.get("warm"):
        made += [Target(f"warm run, {name}", median(warm[name]), 3.5, " ms") for name in ("dayfly", "dayfly async")]
        made.append(Target("run in a session", median(warm["dayfly session"]), 4, " ms"))
        made.append(Target("warm run / python3 on the bare host", median(warm["dayfly async"]) / median(warm["bare host"]), 0.35, "x"))
        peers = [median(warm[name]) for name in SINGLE_USE if warm.get(name)]
        if peers:
            made.append(
                Target("fastest peer with a container per run / warm run", min(peers) / median(warm["dayfly"]), 100, "x", least=True)
            )
    if (sustained := found.get("throughput")) and best(sustained, "dayfly"):
        made += _throughput_targets(sustained)
    if bursts := found.get("burst"):
        made.append(Target(f"last of {len(bursts[0])} runs started at once", median([ends[-1] for ends in bursts]), 400, " ms"))
    if late := found.get("timeouts"):
        for kind, values in late.items():
            made.append(Target(f"lateness of a time-out, {kind}: median", median(values), 30, " ms"))
            made.append(Target(f"lateness of a time-out, {kind}: p95", quantile(values, 0.95), 100, " ms"))
    if streams := found.get("streams"):
        speeds = next(iter(streams.values()))
        made.append(Target("stdout to the caller", median([flood["mb_per_s"] for flood in speeds]), 100, " MB/s", least=True))
    if memory := found.get("footprint"):
        pools = {int(size): row for size, row in memory.items() if size.isdigit()}
        largest = max(pools)
        if charged := pools[largest]["cgroup_bytes"]:
            made.append(Target("idle container, in its cgroup", charged / 1e6, 8, " MB"))
        made.append(Target(f"idle container, the machine's memory (of {largest})", _each(pools, largest), 12, " MB"))
        made.append(Target("import dayfly", median(memory["import_ms"]), 90, " ms"))
    if preload := found.get("preload"):
        latency, modules = preload["latency"], ", ".join(preload["modules"])
        for way, most in (("dayfly async", 1.5), ("dayfly session", 2)):
            ratio = median(latency[f"{way}, preloaded"]) / median(latency[f"{way}, no import"])
            made.append(Target(f"{way}: {modules} preloaded / no import", ratio, most, "x"))
    if judging := found.get("judging"):
        plain, importing = judging["plain"], judging["importing"]
        made += [
            Target("judge, cases a second", median(plain["dayfly judge"]), 300, "", least=True),
            Target("judge / python3 on the bare host", median(plain["dayfly judge"]) / median(plain["bare host"]), 2, "x", least=True),
            Target(
                f"judge / bare host, {judging['module']} preloaded",
                median(importing["dayfly judge"]) / median(importing["bare host"]),
                10,
                "x",
                least=True,
            ),
            Target("a verdict of 20 cases", median(judging["twenty_ms"]), 120, " ms"),
            Target("host's memory, cases of 1 MB output each", judging["hold_mb"], 100, " MB"),
        ]
    if growth := found.get("growth"):
        costs = [row["host_ms"] for size, row in growth.items() if size.isdigit()]
        made.append(Target("host CPU per run, largest pool / smallest", costs[-1] / costs[0], 1.1, "x"))
    return made


def _throughput_targets(sustained: dict[str, dict[str, list[dict[str, float]]]]) -> list[Target]:
    made: list[Target] = []
    ours = best(sustained, "dayfly")
    made.append(Target("throughput / ceiling", ours / best(sustained, "ceiling"), 0.95, "", least=True))
    if sustained.get("static ceiling"):
        made.append(Target("throughput / static ceiling", ours / best(sustained, "static ceiling"), 0.80, "", least=True))
    if sustained.get("docker run"):
        made.append(Target("throughput / docker run", ours / best(sustained, "docker run"), 1.6, "x", least=True))
    if peer := max((best(sustained, name) for name in SINGLE_USE if name != "docker run"), default=0.0):
        made.append(Target("throughput / best other peer with a container per run", ours / peer, 1.6, "x", least=True))
    for callers, least in (("1", 200), ("2", 350)):
        if windows := sustained.get("dayfly session", {}).get(callers):
            made.append(Target(f"runs a second, sessions: {callers}", rate(windows), least, "", least=True))
    windows = [window for windows in sustained["dayfly"].values() for window in windows]
    made.append(Target("dayfly's own process per run", rate(windows, "own_ms"), 5, " ms"))
    return made


def _each(pools: dict[int, Any], largest: int) -> float:
    """What one more container costs the machine, in MB: the slope from the smallest pool to the
    largest."""
    smallest = min(pools)
    if largest == smallest:
        return float(pools[largest]["machine_kb"]) * 1_024 / 1e6
    return float(pools[largest]["machine_kb"] - pools[smallest]["machine_kb"]) / (largest - smallest) * 1_024 / 1e6


def table(found: Found) -> str:
    """All of it in Markdown."""
    made = targets(found)
    parts = [
        "# Measurements of dayfly",
        ", ".join(f"{name} {version}" for name, version in found["versions"].items()) + ".",
        _rows("## Targets", "what | to reach | measured | met", [target.row() for target in made]) if made else "",
    ]
    parts += [describe(found[name]) for name, describe in _DESCRIBED.items() if found.get(name)]
    if failures := found.get("failures"):
        parts.append("## Could not be measured\n" + "\n".join(f"- {name}: {why}" for name, why in failures.items()))
    return "\n\n".join(filter(None, parts)) + "\n"


def _rows(title: str, head: str, rows: Sequence[str]) -> str:
    return "\n".join([title, "", f"| {head} |", "|---" * (head.count("|") + 1) + "|", *(f"| {row} |" for row in rows)])


def _warm(warm: dict[str, list[float]]) -> str:
    ours = median(warm["dayfly"])
    rows = [
        f"{name} | {median(values):,.1f} | {quantile(values, 0.95):,.1f} | {median(values) / ours:,.2f}x | {len(values)} | {why(name)}"
        for name, values in sorted(warm.items(), key=lambda item: median(item[1]))
    ]
    return _rows('## `print("hi")`, one at a time: ms from call to result', "who | median | p95 | of dayfly's | runs | what", rows)


def _cold(cold: dict[str, list[float]]) -> str:
    first, *larger = cold.items()
    text = f"From `initialize` to the first result: median {median(first[1]):,.0f} ms, p95 {quantile(first[1], 0.95):,.0f} ms."
    return text + "".join(f" `initialize` of {size}: median {median(values):,.0f} ms." for size, values in larger)


def _throughput(sustained: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    rows = []
    for name, by_callers in sustained.items():
        for callers, windows in sorted(by_callers.items(), key=lambda item: int(item[0])):
            numbers = f"{rate(windows):.2f} | {rate(windows, 'machine_ms'):.0f} | {rate(windows, 'own_ms'):.1f}"
            rows.append(f"{name} | {callers} | {numbers} | {why(name)}")
    return _rows("## Sustained throughput", "who | callers | runs/s | machine's CPU ms/run | own process's | what", rows)


def _burst(bursts: list[list[float]]) -> str:
    ends = ", ".join(f"{ends[-1]:,.0f}" for ends in bursts)
    return f"## Burst\n\n{len(bursts[0])} runs at once on a full pool: the last result after {ends} ms."


def _timeouts(late: dict[str, list[float]]) -> str:
    rows = [f"{kind} | {median(values):.1f} | {quantile(values, 0.95):.1f}" for kind, values in late.items()]
    return _rows("## A deadline of 500 ms: how late the run returns, ms", "program | median | p95", rows)


def _streams(streams: dict[str, list[dict[str, Any]]]) -> str:
    rows = []
    for megabytes, floods in streams.items():
        speed, kept = (median([flood[name] for flood in floods]) for name in ("mb_per_s", "bytes"))
        host, container = (max(flood[name] or 0 for flood in floods) for name in ("host_kb", "container_bytes"))
        rows.append(f"{megabytes} | {speed:.0f} | {kept / 1e6:.0f} | {host / 1e3:.0f} | {container / 1e6:.0f}")
    head = "MB written | MB/s to the caller | MB kept | host's memory grew by, MB | container's peak, MB"
    return _rows("## A program that writes as fast as it can, 64 MB kept", head, rows)


def _footprint(memory: dict[str, Any]) -> str:
    rows = []
    for size, row in memory.items():
        if size.isdigit():
            container = (
                f"{(row['cgroup_bytes'] or 0) / 1e6:.1f} | {row['container_pss_kb'] / 1e3:.1f} | {(row['shim_pss_kb'] or 0) / 1e3:.1f}"
            )
            rows.append(f"{size} | {row['host_kb'] / 1e3:.1f} | {row['descriptors']} | {container} | {row['machine_kb'] / 1e3:.0f}")
    head = "pool | host process | its descriptors | a container's cgroup | its processes (PSS) | its shim (PSS) | the machine, all in"
    took = {name: median(values) for name, values in memory.items() if name.endswith("_ms")}
    return _rows("## Footprint, MB", head, rows) + (
        f"\n\n`import dayfly`: {took['import_ms']:.0f} ms, of which asyncio, anyio and msgspec take {took['foundations_ms']:.0f}"
        f" by themselves; httpx comes with the first engine, in {took['first_engine_ms']:.0f} ms."
    )


def _growth(growth: dict[str, Any]) -> str:
    rows = [f"{size} | {row['wall_ms']:.1f} | {row['host_ms']:.1f}" for size, row in growth.items() if size.isdigit()]
    queued = growth["queued"]
    return (
        _rows("## Growth", "pool | warm run, ms | host CPU ms per run, its container's making included", rows)
        + f"\n\nWith a long queue on a pool of 8: {queued['host_ms']:.1f} ms of host CPU per run, "
        + f"{queued['entering_ms']:.3f} ms to enter the queue, {queued['leaving_ms']:.3f} ms to be cancelled in it."
    )


def _preload(preload: dict[str, Any]) -> str:
    modules = ", ".join(preload["modules"])
    rows = [
        f"{name} | {median(values):,.1f} | {quantile(values, 0.95):,.1f} | {len(values)}"
        for name, values in sorted(preload["latency"].items(), key=lambda item: median(item[1]))
    ]
    idle = [
        f"{name} | {(row['cgroup_bytes'] or 0) / 1e6:.1f} | {row['container_pss_kb'] / 1e3:.1f}" for name, row in preload["idle"].items()
    ]
    return (
        _rows(f"## `import {modules}; print('hi')`: ms from call to result", "who | median | p95 | runs", rows)
        + "\n\n"
        + _rows("### An idle container, MB", "with | its cgroup | its processes (PSS)", idle)
    )


def _files(files: dict[str, Any]) -> str:
    size = files["megabytes"]
    into, out = ((median(files[name]) - median(files[other])) / size for name, other in (("in", "none"), ("out", "written")))
    return (
        f"## Files\n\nA file of {size} MB: {into:.1f} ms for each MB that is handed in, {out:.1f} ms for each that is fetched."
        f" Medians: a run without a file {median(files['none']):.1f} ms, with it handed in {median(files['in']):.1f},"
        f" with it written {median(files['written']):.1f}, and fetched {median(files['out']):.1f}."
    )


def _judging(judging: dict[str, Any]) -> str:
    parts = []
    for kind, title in (("plain", "`print(int(input()) + 1)`"), ("importing", f"the same after `import {judging['module']}`")):
        rates = judging[kind]
        bare = median(rates["bare host"])
        rows = [f"{name} | {median(values):,.1f} | {median(values) / bare:.2f}x | {why(name)}" for name, values in rates.items()]
        parts.append(_rows(f"## Judging {title}", "who | cases a second | of the bare host's | what", rows))
    parts.append(
        f"A verdict of 20 cases: median {median(judging['twenty_ms']):.0f} ms, p95 {quantile(judging['twenty_ms'], 0.95):.0f} ms."
        f" With 1 MB of output from each case, the host's process grows by {judging['hold_mb']:.0f} MB."
    )
    return "\n\n".join(parts)


_DESCRIBED = {
    "warm": _warm,
    "cold": _cold,
    "throughput": _throughput,
    "burst": _burst,
    "timeouts": _timeouts,
    "streams": _streams,
    "footprint": _footprint,
    "growth": _growth,
    "preload": _preload,
    "files": _files,
    "judging": _judging,
}


def plots(found: Found, folder: Path) -> list[Path]:
    """Latency as a distribution, throughput by callers, and one burst; needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    made = []
    if warm := found.get("warm"):
        figure, axes = plt.subplots(figsize=(8, 4.5))
        for name, values in sorted(warm.items(), key=lambda item: median(item[1])):
            ordered = sorted(values)
            shares = [(index + 1) / len(ordered) for index in range(len(ordered))]
            axes.step(ordered, shares, where="post", label=name, linewidth=2.5 if "dayfly" in name else 1.2)
        axes.set(xscale="log", xlabel="ms from call to result (log)", ylabel="share of runs", title='print("hi"), one at a time')
        made.append(_save(figure, axes, folder / "latency.png"))
    if sustained := found.get("throughput"):
        figure, axes = plt.subplots(figsize=(8, 4.5))
        for name, by_callers in sustained.items():
            points = sorted((int(callers), rate(windows)) for callers, windows in by_callers.items())
            axes.plot(*zip(*points, strict=True), marker="o", label=name, linewidth=2.5 if name == "dayfly" else 1.2)
        axes.set(xlabel="callers", ylabel="runs per second", title="Sustained throughput", ylim=(0, None))
        made.append(_save(figure, axes, folder / "throughput.png"))
    if bursts := found.get("burst"):
        figure, axes = plt.subplots(figsize=(8, 4.5))
        for number, ends in enumerate(bursts, 1):
            axes.step(ends, range(1, len(ends) + 1), where="post", label=f"burst {number}")
        axes.set(xlabel="ms from the start", ylabel="results", title=f"{len(bursts[0])} runs at once on a full pool", xlim=(0, None))
        made.append(_save(figure, axes, folder / "burst.png"))
    return made


def _save(figure: Any, axes: Any, path: Path) -> Path:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path
