"""Where magic-wormhole and its servers are: a virtual environment of their own."""

from __future__ import annotations

from pathlib import Path

from benchmarks.message_pairs import installed_version

WORMHOLE_FOLDER = Path(__file__).parent.parent / ".venv" / "magic-wormhole" / "bin"


def version_of(package: str) -> str:
    """Return the version of one of its packages. Raises: ServerNotInstalled."""
    return installed_version(str(WORMHOLE_FOLDER / "python"), package)
