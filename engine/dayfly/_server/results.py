"""Results as JSON, off the event loop where they are large."""

from __future__ import annotations

import asyncio

from dayfly import Result

from .bodies import THREAD_ABOVE


async def encode_result(result: Result, *, combined: bool) -> bytes:
    """Return the result's JSON form, without the member `combined` where that is not wanted.

    What the program sent is in it as text: it was checked for its depth, and is not decoded here.
    """
    raw = sum(memoryview(text).nbytes for text in (*result.messages_raw, *result.displays_raw))
    size = len(result.stdout) + len(result.stderr) + raw + sum(map(len, result.files.values()))
    if size <= THREAD_ABOVE:
        return result.to_json(combined=combined)
    return await asyncio.to_thread(result.to_json, combined=combined)
