"""Length-prefixed frames, sans I/O: 4 bytes of big-endian length, then that many bytes of body.

Owns where a frame begins and ends, and nothing of what it says. The length comes from a place where
hostile code runs: it is checked against the limit before a byte of the body is kept, and memory
grows with bytes that came, never with a claim. The contract is conformance/PROTOCOL.md, section
"Frame".
"""

from __future__ import annotations

from ._errors import ProtocolViolation

PREFIX = 4


def frame(body: bytes) -> bytes:
    """Return `body` as one frame."""
    return len(body).to_bytes(PREFIX, "big") + body


class FrameDecoder:
    """Cuts a stream of bytes into frame bodies. `limit` (bytes) may be changed between frames.

    A length of 0 or over the limit is a ProtocolViolation, now and on every later call.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._broken: str | None = None

    def feed(self, data: bytes | memoryview) -> None:
        """Add bytes as they came. After a violation they are dropped."""
        if not self._broken:
            self._buffer += data

    def next(self) -> bytes | None:
        """Return the next body, or None while more bytes are needed."""
        if self._broken:
            raise ProtocolViolation(self._broken)
        if len(self._buffer) < PREFIX:
            return None
        length = int.from_bytes(self._buffer[:PREFIX], "big")
        if not 0 < length <= self.limit:
            self._buffer.clear()
            self._broken = f"a frame claims a length of {length:,} bytes; from 1 to {self.limit:,} are allowed here"
            raise ProtocolViolation(self._broken)
        if len(self._buffer) < PREFIX + length:
            return None
        body = bytes(memoryview(self._buffer)[PREFIX : PREFIX + length])
        del self._buffer[: PREFIX + length]
        return body
