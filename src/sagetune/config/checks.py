"""Collecting what is wrong with a configuration."""

from __future__ import annotations

from typing import Any


class Problems:
    """Collects what is wrong with a config, so that a user reads all of it at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def check(self, ok: bool, name: str, value: Any, allowed: str) -> None:
        if not ok:
            self.found.append(f"{name} must be {allowed}, got {value!r}")

    def one_of(self, name: str, value: str, allowed: tuple[str, ...]) -> None:
        self.check(value in allowed, name, value, "one of " + ", ".join(allowed))

    def report(self) -> None:
        """Raise ValueError with one line a problem; return if there is none."""
        if self.found:
            raise ValueError("\n".join(self.found))
