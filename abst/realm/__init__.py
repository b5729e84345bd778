"""The realm: a relay that forwards packets between devices and cannot read them.

``RealmFactory`` and ``RealmProtocol`` embed a realm in any Twisted application.
"""

from abst.realm.protocol import RealmFactory, RealmProtocol

__all__ = ["RealmFactory", "RealmProtocol"]
