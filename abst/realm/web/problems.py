"""What is not well in a realm, in words that say what to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from abst.realm.probe import REASONS
from abst.realm.web.numbers import Numbers

NEAR: Final = 0.9
"""What has used up so much of a limit is near to it."""

SLOW_PROBE_SECONDS: Final = 1.0
SLOW_COMMIT_SECONDS: Final = 2.0
SLOW_REACTOR_SECONDS: Final = 0.5
CERTIFICATE_DAYS: Final = 14
_DAY_SECONDS: Final = 86400


@dataclass(frozen=True, slots=True)
class Health:
    """What problems are judged by, beside the numbers.

    Attributes:
        probe_problem: why the last probe of the realm itself has failed, or None.
        probe_seconds: how long the last one took there and back, or None.
        is_kept: whether the disk has taken what was last given to it.
        commit_seconds: how long that took, or None.
        lag_seconds: how late 99 of 100 calls of the last minutes were at most, or None.
        open_files: how many files are open, or None where that is not known.
        most_files: how many may be, or None.
        certificate_seconds: how long the certificate is still good; None for ever.
    """

    probe_problem: str | None = None
    probe_seconds: float | None = None
    is_kept: bool = True
    commit_seconds: float | None = None
    lag_seconds: float | None = None
    open_files: int | None = None
    most_files: int | None = None
    certificate_seconds: float | None = None


def problems(numbers: Numbers, health: Health) -> dict[str, str]:
    """Return what is not well: a sentence for people under a word for programs."""
    found: dict[str, str] = {}
    if health.probe_problem is not None:
        reason = health.probe_problem
        why = REASONS.get(reason, f"it refuses them: {reason}")
        found["probe_fails"] = (
            f"The realm's own packets do not get through: {why}. "
            "Look into its log, and restart it if that does not tell."
        )
    elif (health.probe_seconds or 0.0) > SLOW_PROBE_SECONDS:
        found["probe_slow"] = (
            f"A packet takes {health.probe_seconds:.1f} s there and back. "
            "Look at the load of this machine."
        )
    if not health.is_kept:
        found["not_kept"] = (
            "The disk does not take what groups and devices give it. "
            "See whether the state folder's file system is full or read-only."
        )
    elif (health.commit_seconds or 0.0) > SLOW_COMMIT_SECONDS:
        found["disk_slow"] = (
            f"The disk takes {health.commit_seconds:.1f} s to keep something. "
            "See what else uses it."
        )
    if (health.lag_seconds or 0.0) > SLOW_REACTOR_SECONDS:
        found["reactor_slow"] = (
            f"What is due comes up to {health.lag_seconds:.1f} s late. "
            "Look at the load of this machine."
        )
    found.update(_near_limits(numbers, health))
    found.update(_certificate(health))
    return found


def _near_limits(numbers: Numbers, health: Health) -> dict[str, str]:
    limits = numbers.limits
    found = {}
    if numbers.connections >= NEAR * limits.connections:
        found["connections_near_limit"] = (
            f"{numbers.connections} of {limits.connections} connections are in use. "
            "Raise the limit 'connections', or see who uses them."
        )
    if numbers.queue_bytes >= NEAR * limits.all_queues_bytes:
        found["queues_near_limit"] = (
            f"{numbers.queue_bytes} of {limits.all_queues_bytes} bytes wait for devices. "
            "Raise the limit 'all_queues_bytes' if this machine has the memory."
        )
    if limits.all_values_bytes and numbers.stored_bytes >= NEAR * limits.all_values_bytes:
        found["values_near_limit"] = (
            f"{numbers.stored_bytes} of {limits.all_values_bytes} bytes are stored. "
            "Raise the limit 'all_values_bytes' if the disk has the room."
        )
    open_files, most_files = health.open_files, health.most_files
    if open_files is not None and most_files is not None and open_files >= NEAR * most_files:
        found["files_near_limit"] = (
            f"{open_files} of {most_files} files are open, and each connection is one. "
            "Raise LimitNOFILE, and restart the realm."
        )
    return found


def _certificate(health: Health) -> dict[str, str]:
    left = health.certificate_seconds
    if left is None or left > CERTIFICATE_DAYS * _DAY_SECONDS:
        return {}
    if left <= 0:
        text = "The certificate has run out, and devices that check it do not come in."
    else:
        text = f"The certificate runs out in {left / _DAY_SECONDS:.0f} days."
    return {"certificate": f"{text} Renew it, and reload the realm."}
