"""What ``/proc`` tells of processes: CPU time, memory, open files, children."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PRIVATE_FIELDS = ("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:", "SwapPss:")
_PROPORTIONAL_FIELDS = ("Pss:", "SwapPss:")
_PEAK_FIELDS = ("VmHWM:",)


def tree(pid: int) -> list[int]:
    """Return the process IDs of a process and of all that it has started and that still run."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            # A process that has just ended is in nobody's tree.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, children.read_text().split())
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return CPU time, user and system, of processes and of their children that have ended."""
    ticks = 0
    for pid in pids:
        # The command's name, in brackets, may hold spaces: fields count from behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_PER_SECOND


def private_kib(pids: Sequence[int]) -> int:
    """Return the memory that these processes alone occupy."""
    return sum(_read_kib(f"/proc/{pid}/smaps_rollup", _PRIVATE_FIELDS) for pid in pids)


def proportional_kib(pids: Sequence[int]) -> int:
    """Return these processes' memory, shared pages in parts; one that ended is passed over."""
    return _of_those_left("smaps_rollup", _PROPORTIONAL_FIELDS, pids)


def peak_kib(pids: Sequence[int]) -> int:
    """Return the most that each has ever had in memory, summed; one that ended is passed over."""
    return _of_those_left("status", _PEAK_FIELDS, pids)


def descriptors(pids: Sequence[int]) -> int:
    """Return how many files and sockets processes have open."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def _of_those_left(name: str, fields: Collection[str], pids: Sequence[int]) -> int:
    kib = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            kib += _read_kib(f"/proc/{pid}/{name}", fields)
    return kib


def _read_kib(file: str, fields: Collection[str]) -> int:
    kib = 0
    for line in Path(file).read_text().splitlines():
        field, *rest = line.split()
        if field in fields:
            kib += int(rest[0])
    return kib
