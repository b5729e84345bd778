"""A path: what carries a session just now. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from abst.address import RealmAddress


@dataclass(frozen=True, slots=True)
class Path:
    """The way that packets take to a peer.

    Attributes:
        kind: "realm"; "direct" is reserved for connections on the same network.
        realm: the realm that relays, or None.
    """

    kind: str
    realm: RealmAddress | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.realm.host}:{self.realm.port}" if self.realm else self.kind
