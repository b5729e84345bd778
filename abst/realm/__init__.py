"""The realm: a relay that forwards packets between devices and cannot read them.

``RealmFactory`` and ``RealmProtocol`` embed a realm in any Twisted application. They are fetched
when somebody asks for them: the operator's command line needs no more than a few small modules.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abst.realm.protocol import RealmFactory, RealmProtocol

__all__ = ["RealmFactory", "RealmProtocol"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("abst.realm.protocol"), name)
    globals()[name] = value  # The next time it is found without asking here.
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
