"""A store in SQLite: one thread owns the file, and commits what has gathered meanwhile.

Owns the way there and back. While the thread writes one batch, the next one gathers; so the more
is asked for, the more goes into one commit, and nobody waits for more than two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from abst.realm.store.interface import (
    AccessChange,
    Addition,
    DeviceRecord,
    Done,
    Forgotten,
    GroupRecord,
    History,
    InvitationRecord,
    Page,
    Volumes,
)
from abst.realm.store.tables import Tables

MAX_BATCH: Final = 512
"""How much is done between two commits: what is read has to be in memory until then."""

MAX_GATHERED: Final = 100_000
"""How much may wait; whoever asks more of groups is told that it is not kept."""

MAX_FAILED_GROUPS: Final = 4
"""When so many groups of a batch have failed, it is the disk, and the others are not tried: each
may wait for seconds."""

LOG_SECONDS: Final = 60.0
"""How long a disk that takes nothing is mentioned once."""


_ACCESS: Final = b"access"
_VOLUMES: Final = b"volumes"
"""What is about no group fails apart from groups."""


class _Opened(NamedTuple):
    """What there was when the file was opened."""

    groups: list[GroupRecord]
    stored_bytes: dict[bytes, int]
    devices: list[DeviceRecord]
    invitations: list[InvitationRecord]
    volumes: Volumes


class _Job(NamedTuple):
    """Something to be done.

    Attributes:
        operation: does it in the thread, with the argument.
        done: called in the reactor's thread with what that returned.
        failure: what it is called with instead when it failed.
        group: the group that it is about; what fails, fails for its group.
    """

    operation: Callable[[Tables, Any], Any]
    argument: Any
    done: Callable[[Any], None]
    failure: Any
    group: bytes | None = None


class SqliteStore:
    """A ``Store`` in a file.

    Args:
        reactor: the reactor in whose thread everything is asked for, and answered.
        path: the file; made, for its owner only, when it does not exist.

    Attributes:
        told: called after the answers to a batch.
        committed: called after each batch with the seconds that it took in the thread, and whether
            all of it was done.

    Raises:
        DatabaseError: the file is damaged, of another kind, or of a newer version; it is left
            alone.
    """

    log = Logger(namespace="abst.realm")

    def __init__(self, reactor: Any, path: Path) -> None:
        self.told: Callable[[], None] = lambda: None
        self.committed: Callable[[float, bool], None] = lambda seconds, is_done: None
        self._reactor = reactor
        self._gathered: list[_Job] = []
        self._is_working = False
        self._is_called = False
        self._log_at = -math.inf
        self._closed: Deferred[None] | None = None
        self._batches: SimpleQueue[list[_Job] | None] = SimpleQueue()
        opened: Future[_Opened] = Future()
        # A realm that is ended otherwise than in order shall not wait for the thread.
        Thread(target=self._run, args=(path, opened), name="abst-store", daemon=True).start()
        self._opened = opened.result()

    def groups(self) -> Iterable[GroupRecord]:
        """Return every group, as it was when the store was opened."""
        return self._opened.groups

    def stored_bytes(self) -> Mapping[bytes, int]:
        """Return how much is kept of each group's values, as it was when the store was opened."""
        return self._opened.stored_bytes

    def put_group(self, record: GroupRecord, done: Done) -> None:
        """Keep a group, or its newer epoch."""
        if len(self._gathered) >= MAX_GATHERED:
            done(False)
            return
        self._ask(_Job(Tables.put_group, record, done, False, record.group))

    def note_use(self, group: bytes, day: int) -> None:
        """Keep a group's newest day of use, if that can be; nobody waits for it."""
        self._ask(_Job(Tables.note_use, (group, day), _ignore, None, group))

    def forget_groups(self, groups: Sequence[bytes], done: Forgotten) -> None:
        """Forget those groups that have never had a value; give these, or None when it failed."""
        self._ask(_Job(Tables.forget_groups, groups, done, None))

    def devices(self) -> Iterable[DeviceRecord]:
        """Return every device that was decided about, as it was when the store was opened."""
        return self._opened.devices

    def invitations(self) -> Iterable[InvitationRecord]:
        """Return every invitation, as it was when the store was opened."""
        return self._opened.invitations

    def change_access(self, change: AccessChange, done: Done) -> None:
        """Change who may be here. What fails, fails with every later change not yet answered."""
        if len(self._gathered) >= MAX_GATHERED:
            done(False)
            return
        self._ask(_Job(Tables.change_access, change, done, False, _ACCESS))

    def volumes(self) -> Volumes:
        """Return how much had been sent in a month when the store was opened."""
        return self._opened.volumes

    def put_volumes(self, volumes: Volumes, done: Done) -> None:
        """Keep how much has been sent: by the devices named, and in all."""
        self._ask(_Job(Tables.put_volumes, volumes, done, False, _VOLUMES))

    def load(self, group: bytes, done: Callable[[History | None], None]) -> None:
        """Give the history of a group, an empty one when nothing is kept; None: it failed."""
        self._ask(_Job(Tables.load, group, done, None, group))

    def add(self, addition: Addition, done: Done) -> None:
        """Keep changes."""
        self._ask(_Job(Tables.add, addition, done, False, addition.group))

    def read(
        self, group: bytes, first: int, last: int, done: Callable[[Page | None], None]
    ) -> None:
        """Give the changes from one revision to another; None: it failed."""
        self._ask(_Job(Tables.read, (group, first, last), done, None, group))

    def follow(self, group: bytes, done: Done) -> None:
        """Do nothing, in order: answer once everything about a group that came before is safe."""
        self._ask(_Job(_nothing, None, done, False, group))

    def close(self) -> Deferred[None]:
        """Do what has been asked for, and close the file; what is asked for later is not done."""
        if self._closed is None:
            self._closed = Deferred()
            if not self._is_working:
                self._hand_over()
        return self._closed

    # In the reactor's thread.

    def _ask(self, job: _Job) -> None:
        if self._closed is not None:
            return
        self._gathered.append(job)
        if not self._is_working and not self._is_called:
            # What comes in the same turn of the reactor goes into the same commit.
            self._is_called = True
            self._reactor.callLater(0, self._called)

    def _called(self) -> None:
        self._is_called = False
        if not self._is_working:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the thread the next batch; when there is none, and none will come, its end."""
        if self._gathered:
            batch = self._gathered[:MAX_BATCH]
            del self._gathered[:MAX_BATCH]
            self._is_working = True
            self._batches.put(batch)
        elif self._closed is not None:
            self._is_working = True
            self._batches.put(None)

    def _answer(
        self, batch: list[_Job], results: list[Any], problems: dict[Any, str], seconds: float
    ) -> None:
        self._is_working = False
        self.committed(seconds, not problems)
        if problems:
            # What was asked for since was built on what has just failed.
            failed = [job for job in self._gathered if job.group in problems]
            self._gathered = [job for job in self._gathered if job.group not in problems]
            batch += failed
            results += [job.failure for job in failed]
            self._log(next(iter(problems.values())))
        self._hand_over()
        for job, result in zip(batch, results, strict=True):
            try:
                job.done(result)
            except Exception:
                # One answer's failure must not keep the others from being given.
                self.log.failure("an answer from the store was not taken")
        self.told()

    def _log(self, problem: str) -> None:
        now = self._reactor.seconds()
        if now >= self._log_at:
            self._log_at = now + LOG_SECONDS
            self.log.error(
                "not everything can be kept or read at the moment ({problem}); make room on the "
                "disk, or see what is wrong with it",
                problem=problem,
            )

    def _end(self) -> None:
        assert self._closed is not None
        self._closed.callback(None)

    # In the thread.

    def _run(self, path: Path, opened: Future[_Opened]) -> None:
        try:
            tables = Tables(path)
            opened.set_result(
                _Opened(
                    tables.groups(),
                    tables.stored_bytes(),
                    tables.devices(),
                    tables.invitations(),
                    tables.volumes(),
                )
            )
        except Exception as error:
            opened.set_exception(error)
            return
        while (batch := self._batches.get()) is not None:
            begun = time.perf_counter()
            results, problem = _do(tables, batch)
            problems: dict[Any, str] = {}
            if problem:
                results, problems = _do_by_groups(tables, batch)
            seconds = time.perf_counter() - begun
            self._reactor.callFromThread(self._answer, batch, results, problems, seconds)
        tables.close()
        self._reactor.callFromThread(self._end)


def _do(tables: Tables, jobs: Sequence[_Job]) -> tuple[list[Any], str]:
    """Do all, and return what came of it, or what has kept all of it from being done."""
    try:
        results = [job.operation(tables, job.argument) for job in jobs]
        tables.commit()
    except Exception as error:
        # Whatever it is, the realm goes on, and nobody is told that anything was kept.
        tables.rollback()
        return [job.failure for job in jobs], str(error) or type(error).__name__
    return results, ""


def _do_by_groups(tables: Tables, batch: Sequence[_Job]) -> tuple[list[Any], dict[Any, str]]:
    """Do what cannot be done together for each group by itself; return also what went wrong where.

    So a page that cannot be read any more is the trouble of the one group that it belongs to.
    """
    by_group: dict[bytes | None, list[int]] = {}
    for number, job in enumerate(batch):
        by_group.setdefault(job.group, []).append(number)
    results: list[Any] = [None] * len(batch)
    problems: dict[bytes | None, str] = {}
    problem = ""
    for group, numbers in by_group.items():
        jobs = [batch[number] for number in numbers]
        if len(problems) < MAX_FAILED_GROUPS:
            found, problem = _do(tables, jobs)
        else:
            found = [job.failure for job in jobs]
        for number, result in zip(numbers, found, strict=True):
            results[number] = result
        if problem:
            problems[group] = problem
    return results, problems


def _ignore(result: None) -> None:
    """Take an answer that nobody waits for."""


def _nothing(tables: Tables, argument: None) -> bool:
    return True
