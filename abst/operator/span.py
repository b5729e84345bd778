"""Spans of time as an operator types them: ``7d``, ``12h``, ``30min``, ``never``."""

from __future__ import annotations

import re
from typing import Final

import click

UNITS: Final = {"min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
MAX_SECONDS: Final = 10 * 366 * 86400

_SPAN = re.compile(rf"([1-9][0-9]{{0,9}}) ?({'|'.join(UNITS)})")


def seconds_of(ctx: click.Context, parameter: click.Parameter, text: str) -> int | None:
    """Return the seconds that an option's text means; None for ever.

    Raises:
        click.BadParameter: it is no span of time.
    """
    text = text.strip().lower()
    if text == "never":
        return None
    match = _SPAN.fullmatch(text)
    seconds = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < seconds <= MAX_SECONDS:
        raise click.BadParameter("such as 30min, 12h, 7d, 4w (at most ten years) or never")
    return seconds
