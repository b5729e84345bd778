"""What a realm counts: packets, bytes, connections, drops by reason. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Counters:
    """Totals since the realm started; every number only grows.

    Attributes:
        connections: connections whose Hello was accepted.
        relayed_packets: packets handed to their target's queue.
        relayed_bytes: those packets' bytes, header fields included.
        dropped_packets: packets not delivered, by wire code.
        refused_packets: requests that the realm refused, by wire code.
        refused_connections: connections that the realm closed, by wire code.
        identity_conflicts: how often one identity was seen on several machines.
        circuits_offered: circuits whose two devices were told of them.
        circuits_joined: circuits whose two legs came.
        circuit_bytes: bytes that came on their legs.
        ended_circuits: joined circuits that the realm ended, by wire code.
        refused_legs: legs that came to nothing, by wire code.
        groups_made: peer groups that were made.
        groups_forgotten: how many were forgotten, since nobody had used them.
        groups_moved: how often one was moved to its next epoch.
        group_joins: how often a device has joined one.
    """

    connections: int = 0
    relayed_packets: int = 0
    relayed_bytes: int = 0
    dropped_packets: Counter[str] = field(default_factory=Counter)
    refused_packets: Counter[str] = field(default_factory=Counter)
    refused_connections: Counter[str] = field(default_factory=Counter)
    identity_conflicts: int = 0
    circuits_offered: int = 0
    circuits_joined: int = 0
    circuit_bytes: int = 0
    ended_circuits: Counter[str] = field(default_factory=Counter)
    refused_legs: Counter[str] = field(default_factory=Counter)
    groups_made: int = 0
    groups_forgotten: int = 0
    groups_moved: int = 0
    group_joins: int = 0

    def as_map(self) -> dict[str, Any]:
        """Return the totals under their names, ready for JSON."""
        return {
            "connections": self.connections,
            "relayed_packets": self.relayed_packets,
            "relayed_bytes": self.relayed_bytes,
            "dropped_packets": dict(self.dropped_packets),
            "refused_packets": dict(self.refused_packets),
            "refused_connections": dict(self.refused_connections),
            "identity_conflicts": self.identity_conflicts,
            "circuits_offered": self.circuits_offered,
            "circuits_joined": self.circuits_joined,
            "circuit_bytes": self.circuit_bytes,
            "ended_circuits": dict(self.ended_circuits),
            "refused_legs": dict(self.refused_legs),
            "groups_made": self.groups_made,
            "groups_forgotten": self.groups_forgotten,
            "groups_moved": self.groups_moved,
            "group_joins": self.group_joins,
        }
