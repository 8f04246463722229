"""conformance/vectors, replayed through the host's codec: a runner's bytes whole and one by one, a
host's frames by making them again."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dayfly._dialogue import Dialogue
from dayfly._errors import ProtocolViolation
from dayfly._messages import Frame, Hello, Open, Put, Request, Run, Stdin, Stop, encode

VECTORS = Path(__file__).parents[2] / "conformance" / "vectors"
TOKEN = "0123456789abcdef0123456789abcdef"
RUN_TOKEN = "fedcba9876543210fedcba9876543210"


def load(direction: str) -> list[Any]:
    files = [(path.stem, json.loads(path.read_text())) for path in sorted(VECTORS.glob("*.json"))]
    return [
        pytest.param(content, vector, id=f"{stem}: {vector['name']}")
        for stem, content in files
        if content["direction"] == direction
        for vector in content["vectors"]
    ]


def piece(one: dict[str, Any], pieces: dict[str, Any]) -> bytes:
    match one:
        case {"frame": text}:
            body: bytes = text.encode()
            return len(body).to_bytes(4, "big") + body
        case {"hex": digits}:
            return bytes.fromhex(digits) * int(one.get("times", 1))
        case {"text": text}:
            return bytes(text.encode()) * int(one.get("times", 1))
        case {"use": name}:
            return piece(pieces[name], pieces) * int(one.get("times", 1))
    raise AssertionError(one)


def zeros(frame: dict[str, Any]) -> dict[str, Any]:
    """Return the frame with its data written out."""
    frame = dict(frame)
    if (count := frame.pop("zeros", None)) is not None:
        frame["data"] = base64.b64encode(bytes(count)).decode()
    return frame


def said_run(limits: dict[str, Any]) -> Request:
    text = json.loads((VECTORS / "host_run.json").read_text())["pieces"]["run"]["frame"]
    run = msgspec.convert({**json.loads(text), **limits}, Run)
    return Request(run=run, files=(("main.py", b"print(1)"),), stdin=b"1")


def opened(content: dict[str, Any], vector: dict[str, Any]) -> Dialogue:
    dialogue, said = Dialogue(TOKEN), vector["said"]
    dialogue.hello()
    if said != "hello":
        list(dialogue.receive(piece({"use": "ready"}, content["pieces"])))
    if said == "open" or vector.get("session"):
        dialogue.open(["/sandbox", "/tmp"], ["/dev/shm"])
    if vector.get("session"):
        list(dialogue.receive(piece({"use": "next"}, content["pieces"])))
    if said == "run":
        list(dialogue.run(said_run(vector.get("limits", {})), RUN_TOKEN))
    return dialogue


def plain(frames: list[Any]) -> list[dict[str, Any]]:
    return [json.loads(msgspec.json.encode(frame)) for frame in frames]


@pytest.mark.parametrize(("content", "vector"), load("runner"))
def test_a_runners_bytes_mean_what_the_vector_says(content: dict[str, Any], vector: dict[str, Any]) -> None:
    data = b"".join(piece(one, content["pieces"]) for one in vector["bytes"])
    expected = [zeros(frame) for frame in vector["frames"]]
    broken = vector.get("error", False)

    assert heard(opened(content, vector), [data]) == (expected, broken)
    if not vector.get("slow"):
        assert heard(opened(content, vector), [bytes([byte]) for byte in data]) == (expected, broken)


def heard(dialogue: Dialogue, pieces: list[bytes]) -> tuple[list[dict[str, Any]], bool]:
    """Return the frames, and whether a violation came behind them."""
    found: list[Any] = []
    for data in pieces:
        try:
            found.extend(frame for frame in dialogue.receive(data))
        except ProtocolViolation:
            return plain(found), True
    return plain(found), False


@pytest.mark.parametrize(("content", "vector"), load("host"))
def test_the_hosts_own_frames_are_those_of_the_vector(content: dict[str, Any], vector: dict[str, Any]) -> None:
    kinds: dict[str, type[Frame]] = {"hello": Hello, "open": Open, "run": Run, "put": Put, "stdin": Stdin, "stop": Stop}
    for frame in map(zeros, vector["frames"]):
        value = msgspec.convert(frame, kinds[frame["type"]])
        assert isinstance(value, (Hello, Open, Run, Put, Stdin, Stop))
        assert json.loads(encode(value)) == frame


def test_the_vectors_are_there() -> None:
    assert len(load("runner")) > 100
    assert len(load("host")) > 100
