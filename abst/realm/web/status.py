"""How a realm is, as one JSON object. The page is drawn from it too."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from abst import __version__
from abst.realm.timings import Timings
from abst.realm.web.history import SAMPLE_SECONDS
from abst.realm.web.numbers import devices_here
from abst.realm.web.watch import Watch


def status(watch: Watch, now: float, *, blurs: bool) -> dict[str, Any]:
    """Return how the realm is.

    Args:
        watch: what has been measured.
        now: the time on the realm's clock.
        blurs: whether addresses of devices are blurred.
    """
    look = watch.look()
    numbers, health = look.numbers, look.health
    counters, limits = numbers.counters, numbers.limits
    devices = devices_here(watch.factory.realm, now, blurs=blurs)
    series = asdict(watch.history.series())
    return {
        "version": __version__,
        "time": round(look.at, 3),
        "uptime_seconds": round(look.uptime_seconds),
        "well": not look.problems,
        "problems": [{"code": code, "text": text} for code, text in look.problems.items()],
        "access": {
            "mode": numbers.mode,
            "listed_devices": numbers.listed,
            "revoked_devices": numbers.revoked,
            "invitations": numbers.invitations,
        },
        "here": numbers.here,
        "connections": {
            "now": numbers.connections,
            "before_hello": numbers.awaited + numbers.newcomers,
            "legs": numbers.legs,
            "most": limits.connections,
        },
        "per_second": {name: (series[name] or [0])[-1] for name in ("packets", "bytes", "drops")},
        "history": {"sample_seconds": SAMPLE_SECONDS, **series},
        "relayed": {"packets": counters.relayed_packets, "bytes": counters.relayed_bytes},
        "dropped_packets": _counts(counters.dropped_packets),
        "refused_requests": _counts(counters.refused_packets),
        "refused_connections": _counts(counters.refused_connections),
        "probe": _probe(watch),
        "lag_seconds": _quantiles(watch.lag_seconds),
        "commit_seconds": {
            **_quantiles(watch.commit_seconds),
            "failed_commits": watch.failed_commits,
        },
        "circuits": {
            "waiting": numbers.circuits_waiting,
            "joined": numbers.circuits_joined,
            "bytes": counters.circuit_bytes,
            "most": limits.circuits,
        },
        "groups": {"now": numbers.groups, "members": numbers.members},
        "queue_bytes": {"now": numbers.queue_bytes, "most": limits.all_queues_bytes},
        "stored_bytes": {"now": numbers.stored_bytes, "most": limits.all_values_bytes},
        "files": {"open": health.open_files, "most": health.most_files},
        "certificate_expires": watch.certificate_expires(),
        "devices": [asdict(device) for device in devices],
        "devices_left_out": max(0, numbers.here - len(devices)),
    }


def _counts(counts: dict[str, int]) -> dict[str, int]:
    """Return what was counted by code, most first, and codes as plain words."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {str(code): count for code, count in ordered if count}


def _probe(watch: Watch) -> dict[str, Any] | None:
    probe = watch.probe
    if probe is None:
        return None
    return {
        "problem": probe.problem,
        "failures": _counts(probe.failures),
        "relay_seconds": _quantiles(probe.relay_seconds),
        "entry_seconds": _quantiles(probe.entry_seconds),
    }


def _quantiles(timings: Timings) -> dict[str, Any]:
    return {
        "count": timings.count,
        "p50": _rounded(timings.quantile(0.5)),
        "p99": _rounded(timings.quantile(0.99)),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
