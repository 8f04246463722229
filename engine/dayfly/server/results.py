"""Results as JSON. What a program sent can be nested or large: neither may cost its caller the result."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from dayfly import Result

from .bodies import THREAD_ABOVE

_FIELDS = tuple((field.encode_name, field.name) for field in msgspec.structs.fields(Result))
_encoder = msgspec.json.Encoder()


async def encode_result(result: Result, *, combined: bool) -> bytes:
    """Return the result's JSON form, without the member `combined` where that is not wanted.

    A message that is nested too deeply to be written is left out, and counted as dropped.
    """
    members = {json: getattr(result, name) for json, name in _FIELDS}
    if not combined:
        del members["combined"]
    if len(result.stdout) + len(result.stderr) + 64 * len(result.messages) <= THREAD_ABOVE:
        try:
            return _encoder.encode(members)
        except (RecursionError, ValueError, TypeError, OverflowError):
            pass  # a thread has its stack to itself
    return await asyncio.to_thread(_encoded, members)


def _encoded(members: dict[str, Any]) -> bytes:
    try:
        return _encoder.encode(members)
    except (RecursionError, ValueError, TypeError, OverflowError):
        messages = members["messages"]
        kept = [message for message in messages if _can_be_written(message)]
        dropped = members["messagesDropped"] + len(messages) - len(kept)
        return _encoder.encode({**members, "messages": kept, "messagesDropped": dropped})


def _can_be_written(message: Any) -> bool:
    try:
        _encoder.encode({"messages": [message]})
    except (RecursionError, ValueError, TypeError, OverflowError):
        return False
    return True
