"""How times and tables are shown to an operator."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from abst.cli.output import printable


def moment(text: str | None) -> str:
    """Return a time in ISO 8601 as people here read it."""
    if text is None:
        return "-"
    try:
        return datetime.datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return printable(text)


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows under heads, in columns; what stands in them is made safe to show."""
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)
