"""What a scenario measures: how long packets take, and how it is told."""

from __future__ import annotations

import sys
from collections.abc import Sequence

MEGABYTE = 1024 * 1024


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many per cent of the sorted values do not exceed; 0 of none."""
    if not values:
        return 0.0
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


def tell(words: str) -> None:
    """Tell a figure to whoever runs this."""
    sys.stdout.write(f"\n    {words} ... ")
    sys.stdout.flush()


def lines_with(lines: Sequence[str], *words: str) -> list[str]:
    """Return the first few lines that have any of the words; a whole log is too much to show."""
    return [line for line in lines if any(word in line for word in words)][:5]
