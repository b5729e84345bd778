"""How much has gone through a realm in each of the last moments: a ring of samples. Pure."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import Final

HISTORY_SECONDS: Final = 300.0
SAMPLE_SECONDS: Final = 2.0
_SAMPLES: Final = int(HISTORY_SECONDS / SAMPLE_SECONDS)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the realm had counted at a moment.

    Attributes:
        at: the moment, in seconds on a clock that is never set.
        here: how many devices were here.
        packets: how many packets had been relayed by then.
        bytes: how many bytes.
        drops: how many packets had been dropped.
    """

    at: float
    here: int
    packets: int
    bytes: int
    drops: int


@dataclass(frozen=True, slots=True)
class Series:
    """What happened between each two samples, the oldest first, per second.

    Attributes:
        here: how many devices were here at the later one.
        packets: relayed packets.
        bytes: relayed bytes.
        drops: dropped packets.
    """

    here: list[int]
    packets: list[float]
    bytes: list[float]
    drops: list[float]


class History:
    """The samples of the last minutes."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_SAMPLES + 1)

    def add(self, sample: Sample) -> None:
        """Take the newest sample; one of the same moment as the last is none."""
        if not self._samples or sample.at > self._samples[-1].at:
            self._samples.append(sample)

    def series(self) -> Series:
        """Return what happened between each two samples."""
        found = Series([], [], [], [])
        for before, after in itertools.pairwise(self._samples):
            seconds = after.at - before.at
            found.here.append(after.here)
            found.packets.append(round((after.packets - before.packets) / seconds, 2))
            found.bytes.append(round((after.bytes - before.bytes) / seconds))
            found.drops.append(round((after.drops - before.drops) / seconds, 2))
        return found
