"""How many connections and circuits the open files that the system allows suffice for."""

from __future__ import annotations

import dataclasses
from typing import Final, NamedTuple

from abst.open_files import allow_open_files
from abst.realm.limits import Limits
from abst.realm.pipes import MAX_PIPES
from abst.realm.protocol import hard_limit_of

SPARE_FILES: Final = 2048
"""What is open beside connections that are kept: logs, ports, connections about to be refused."""

PIPES_SHARE: Final = 16
"""Of so many files that may be open, one pipe's: it has two ends, and each direction takes one."""


class Capacity(NamedTuple):
    """How many files may be open.

    Attributes:
        allowed: as many as the system lets this process have.
        needed: as many as the configured limits take while all of them are reached.
    """

    allowed: int
    needed: int


def files_for(limits: Limits) -> int:
    """Return how many files are open at most while all limits are reached."""
    return hard_limit_of(limits) + 2 * limits.circuits + 2 * MAX_PIPES + SPARE_FILES


def limits_within(limits: Limits, files: int) -> tuple[Limits, int]:
    """Return limits that so many open files suffice for, and how many pipes there may be.

    What is told to be full is better than what fails, so the numbers of connections and of
    circuits are lowered alike, and something is left over.
    """
    if files >= files_for(limits):
        return limits, MAX_PIPES
    pipes = min(MAX_PIPES, files // PIPES_SHARE)
    left = files - min(SPARE_FILES, files // 4) - 2 * pipes
    share = left / (hard_limit_of(limits) + 2 * limits.circuits)
    if share >= 1:
        return limits, pipes
    lowered = dataclasses.replace(
        limits,
        connections=max(1, int(limits.connections * share)),
        circuits=int(limits.circuits * share),
    )
    return lowered, pipes


def afford(limits: Limits) -> tuple[Capacity, Limits, int]:
    """Have the system allow what limits need, as far as it does.

    Returns:
        How many files may be open, the limits that these leave, and how many pipes there may be.
    """
    needed = files_for(limits)
    allowed = allow_open_files(needed)
    return Capacity(allowed, needed), *limits_within(limits, allowed)
