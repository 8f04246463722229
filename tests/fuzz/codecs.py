"""Coverage-guided fuzzing of what reads bytes from the other side: any bytes, in any pieces, give
values or the one error of ours.

    python tests/fuzz/codecs.py host|stdcopy|runner CORPUS [libFuzzer's options, such as
    -max_total_time=60]

`make fuzz` installs atheris and runs each of the three in turn. What is found is written to a file;
give that as the CORPUS to see it again. The short form of this, with hypothesis, is in tests/pure.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["dayfly", "dayfly_runner"]):
    from dayfly import _dialogue as dialogue
    from dayfly import _errors as errors
    from dayfly import _messages as messages
    from dayfly import _stdcopy as stdcopy
    from dayfly._frames import frame
    from dayfly_runner import _frames as runner

TOKEN = "0123456789abcdef" * 2
READY = Path(__file__).parents[2] / "conformance/vectors/runner_ready.json"
RUN = messages.Run(
    token=TOKEN, clean=False, python="3", args=[], env={}, stdin=True, merge_stderr=False, seed=None, timeout_ms=1_000, cpu_limit_ms=None,
    stdout_limit=1_000, stderr_limit=1_000, message_limit=1_000, message_count=5, on_output_limit="truncate", open_files=64,
    display_limit=1_000, display_count=5, figures=False, last_value=False, fetch=["*"], file_limit=1_000, file_count=5,
)  # fmt: skip
REQUEST = messages.Request(run=RUN, files=(("main.py", b""),), stdin=b"x" * 1_000)


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut the input up as its first byte says: whole, in bytes, or in pieces of some size."""
    size = data[0] if data else 0
    rest = data[1:]
    if size == 0:
        yield rest
        return
    for at in range(0, len(rest), size):
        yield rest[at : at + size]


def host(data: bytes) -> None:
    """Docker's stream, frames and the table of the dialogue, as a container's own task puts them
    together."""
    demultiplexer, talk = stdcopy.StreamDecoder(), dialogue.Dialogue(TOKEN)
    talk.hello()
    fed = 0
    try:
        for piece in pieces(data):
            fed += len(piece)
            for kind, payload in demultiplexer.feed(piece):
                if kind == stdcopy.STDOUT:
                    list(talk.receive(payload))
                if talk.state is dialogue.State.WARM:
                    list(talk.run(REQUEST, TOKEN))
                talk.outgoing()
            assert len(talk._frames._buffer) <= fed
    except errors.ProtocolViolation:
        pass


def plain(data: bytes) -> None:
    """Docker's stream alone: what comes out does not depend on the pieces that it came in."""
    outcomes = []
    for cut in (b"\0" + data[1:], data):
        decoder, got = stdcopy.StreamDecoder(), {stdcopy.STDOUT: b"", stdcopy.STDERR: b""}
        try:
            for piece in pieces(cut):
                for kind, payload in decoder.feed(piece):
                    got[kind] += bytes(payload)
            outcomes.append(got)
        except errors.ProtocolViolation:
            outcomes.append({})
    assert outcomes[0] == outcomes[1]


def inside(data: bytes) -> None:
    """The runner's decoder."""
    decoder = runner.Decoder()
    try:
        for piece in pieces(data):
            decoder.feed(piece)
            while decoder.next_frame() is not None:
                pass
    except runner.ProtocolError:
        pass


TARGETS: dict[str, Callable[[bytes], None]] = {"host": host, "stdcopy": plain, "runner": inside}


def seeds(target: str) -> Iterator[bytes]:
    """Good beginnings from the protocol's vectors, so that the search starts behind the first
    check."""
    if target == "runner":
        hello = messages.Hello(protocol=messages.PROTOCOL, token=TOKEN, preload=[])
        whole = frame(messages.encode(hello)) + frame(messages.encode(RUN))
        yield from (b"\0" + whole, b"\7" + whole)
        return
    said = [piece["frame"].encode() for piece in json.loads(READY.read_bytes())["pieces"].values()]
    more = [b'{"type":"output","stream":"stdout","data":"eA=="}', b'{"type":"message","data":"MQ=="}', b'{"type":"error","message":"x"}']
    ready, started, end = said
    for last in (end, more[2]):
        frames = [frame(body) for body in (ready, started, *more[:2], last)]
        whole = b"".join(b"\1\0\0\0" + len(body).to_bytes(4, "big") + body for body in frames) + b"\2\0\0\0\0\0\0\1x"
        yield from (b"\0" + whole, b"\5" + whole)


def main() -> None:
    name, folder, *options = sys.argv[1:]
    corpus = Path(folder)
    if not corpus.is_file():
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds(name)):
            (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), "-max_len=8192", "-rss_limit_mb=1024", "-timeout=5", *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
