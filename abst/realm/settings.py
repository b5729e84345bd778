"""A realm's settings by name: which differ, which count at once, and which need a restart. Pure."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

from abst.realm.config import Config

NEED_RESTART: Final = frozenset({"listen", "state", "log", "web", "blur_addresses"})
"""What is opened when the realm starts, and stays open."""


def settings_of(config: Config) -> dict[str, Any]:
    """Return every setting under its dotted name, as JSON has it."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "limits":
            limits = dataclasses.asdict(value)
            found.update((f"limits.{name}", number) for name, number in limits.items())
        else:
            found[field.name] = _plain(value)
    return found


def different(old: Config, new: Config) -> list[str]:
    """Return the names of the settings that differ."""
    before = settings_of(old)
    return [name for name, value in settings_of(new).items() if value != before[name]]


def in_force(old: Config, new: Config) -> Config:
    """Return what counts when a realm that runs with the old settings is given the new ones."""
    kept = {
        field.name: getattr(old, field.name)
        for field in dataclasses.fields(old)
        if field.name in NEED_RESTART
    }
    return dataclasses.replace(new, **kept)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, str) else value
