"""A whole run: every load, some rounds of it, server by server; and medians of what came out.

The servers take turns within a round, and every measurement gets a fresh server. What the machine
does beside the benchmark, or how warm it is, so falls on all of them alike, and a ratio compares
two figures of the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from benchmarks.errors import BenchmarkError
from benchmarks.generator import Generator
from benchmarks.loads import Bounds, Figures, Load
from benchmarks.servers import Server


class Subject(Protocol):
    """What is measured."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...


class Work(Protocol):
    """What it is measured on."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...


AnySubject = TypeVar("AnySubject", bound=Subject)
AnyWork = TypeVar("AnyWork", bound=Work)


@dataclass(frozen=True)
class Sample:
    """What one load on one server gave in one round; or why it gave nothing."""

    load: str
    server: str
    round: int
    figures: Figures
    failure: str | None = None


@dataclass
class Results:
    """All samples of a run, and what TLS negotiated with each server."""

    samples: list[Sample] = field(default_factory=list)
    security: dict[str, str] = field(default_factory=dict)

    def failures(self) -> list[Sample]:
        """Return the samples that failed."""
        return [sample for sample in self.samples if sample.failure is not None]

    def values(self, load: str, server: str, figure: str) -> list[float]:
        """Return a figure of all rounds that have it, in the order of rounds."""
        return list(self._by_round(load, server, figure).values())

    def median(self, load: str, server: str, figure: str) -> float | None:
        """Return the median of a figure over the rounds, or None if no round has it."""
        values = self.values(load, server, figure)
        return statistics.median(values) if values else None

    def ratio(
        self, load: str, server: str, other: str, figure: str, other_figure: str | None = None
    ) -> float | None:
        """Return the median, over rounds, of one server's figure divided by another's."""
        ours = self._by_round(load, server, figure)
        theirs = self._by_round(load, other, other_figure or figure)
        ratios = [ours[each] / theirs[each] for each in ours if theirs.get(each)]
        return statistics.median(ratios) if ratios else None

    def _by_round(self, load: str, server: str, figure: str) -> dict[int, float]:
        return {
            sample.round: sample.figures[figure]
            for sample in self.samples
            if (sample.load, sample.server) == (load, server) and figure in sample.figures
        }


def run(
    results: Results,
    servers: Sequence[Server],
    loads: Sequence[Load],
    rounds: int,
    bounds: Bounds,
    folder: Path,
    progress: Callable[[str], None],
) -> None:
    """Measure every load on every server, and keep going when one of them fails."""

    def run_one(server: Server, load: Load, work: Path) -> Figures:
        return _run_one(server, load, bounds, work, results)

    take_turns(results, servers, loads, rounds, folder, progress, run_one)


def take_turns(
    results: Results,
    subjects: Sequence[AnySubject],
    loads: Sequence[AnyWork],
    rounds: int,
    folder: Path,
    progress: Callable[[str], None],
    run_one: Callable[[AnySubject, AnyWork, Path], Figures],
) -> None:
    """Measure every load on every subject, round by round, and add the samples to ``results``."""
    for load in loads:
        for round_number in range(rounds):
            # Nobody is always the first after a pause.
            start = round_number % max(1, len(subjects))
            for subject in [*subjects[start:], *subjects[:start]]:
                progress(f"{load.title}, round {round_number + 1} of {rounds}: {subject.name}")
                work = folder / f"{load.name}-{round_number}-{subject.name.replace(' ', '-')}"
                work.mkdir()
                try:
                    figures = run_one(subject, load, work)
                    sample = Sample(load.name, subject.name, round_number, figures)
                except BenchmarkError as error:
                    sample = Sample(load.name, subject.name, round_number, {}, str(error))
                except OSError as error:
                    failure = f"{type(error).__name__}: {error}"
                    sample = Sample(load.name, subject.name, round_number, {}, failure)
                results.samples.append(sample)


def _run_one(server: Server, load: Load, bounds: Bounds, folder: Path, results: Results) -> Figures:
    with server.start(folder) as process, Generator(server, process) as generator:
        if server.name not in results.security:
            with Generator(server, process) as once:
                results.security[server.name] = once.connect().security()
        return load.run(generator, bounds)
