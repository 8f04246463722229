from __future__ import annotations

import typing


def f(a: int, b: list[str] = ()) -> None:
    pass


print(f.__annotations__, typing.get_type_hints(f, {"list": typing.List}), __annotations__ if "__annotations__" in globals() else {})
