"""Leaves methods out of the reference that are for the rest of the library: their docstrings begin
with "Internal:"."""

from __future__ import annotations

from typing import Any

import griffe


class PublicNames(griffe.Extension):
    """Deletes them from what griffe has read."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Look through a class. griffe calls it for each."""
        for name, member in list(cls.members.items()):
            if member.docstring and member.docstring.value.startswith("Internal:"):
                cls.del_member(name)
