"""Where a device's home is when nobody names one.

It stands apart from ``home``, which fetches cryptography, so that every command may ask for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from abst.errors import ConfigurationError


def default_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Return ``$ABST_HOME``, else the folder ``abst`` in the XDG data folder.

    Raises:
        ConfigurationError: this user has no home folder.
    """
    given = environment.get("ABST_HOME")
    base = environment.get("XDG_DATA_HOME", "")
    try:
        if given:
            return Path(given).expanduser()
        if base.startswith("/"):  # The XDG specification: what is not absolute is to be ignored.
            return Path(base) / "abst"
        return Path("~/.local/share/abst").expanduser()
    except RuntimeError:
        raise ConfigurationError("--home", None, "name one: this user has no home folder") from None
