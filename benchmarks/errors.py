"""What can go wrong in a run."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A run failed, and its figures would mean nothing."""


class ServerFailed(BenchmarkError):
    """A server did not start, ended, or answered with an error."""


class PacketsLost(BenchmarkError):
    """What arrived is not what was sent, or nothing arrives any more."""


class ServerNotInstalled(Exception):
    """A server's program is not on this machine: it is left out, and no run has failed."""
