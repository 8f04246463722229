"""Docker's multiplexed stream, sans I/O: bytes in, (stream, bytes) out. This is the one place that
knows its header.

Each piece is headed by 8 bytes: the stream's number, three zeros, and a big-endian length. Payload
is passed on as it arrives, so a length is never believed with memory, only counted down. Source:
Docker Engine API, "Attach to a container", section "Stream format".
"""

from __future__ import annotations

from collections.abc import Iterator

from ._errors import ProtocolViolation

STDOUT = 1
STDERR = 2
_HEADER = 8


class StreamDecoder:
    """Takes Docker's stream apart. A header that makes no sense is a ProtocolViolation, now and on
    every later call."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0
        self._stream: int = STDOUT
        self._broken: str | None = None

    def feed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """Yield the payloads in `data`, in order, each with its stream (1 stdout, 2 stderr).

        They are views into `data`. What stands before a bad header is yielded first: how bytes were
        cut into reads changes nothing.
        """
        if self._broken:
            raise ProtocolViolation(self._broken)
        view = memoryview(data)
        at = 0
        while at < len(view):
            if self._left == 0:
                taken = view[at : at + _HEADER - len(self._header)]
                self._header += taken
                at += len(taken)
                if len(self._header) == _HEADER:
                    self._open_piece()
                continue
            piece = view[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            yield self._stream, piece

    def _open_piece(self) -> None:
        stream, zeros = self._header[0], self._header[1:4]
        if stream not in (STDOUT, STDERR) or any(zeros):
            self._broken = "the engine's stream has a header that makes no sense"
            raise ProtocolViolation(self._broken)
        self._stream = stream
        self._left = int.from_bytes(self._header[4:], "big")
        self._header.clear()
