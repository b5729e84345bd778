"""The realm's command line: a thin client of a realm, over the control socket in its state folder.

``main`` is the command ``abst-realm``, for whoever runs a realm. Every command stands in a module
of its own, which is loaded when it is used; what a command needs no realm for, it does by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from abst.cli import INTERRUPTED_STATUS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: what stands after ``abst-realm``; ``sys.argv[1:]`` when None.
    """
    try:
        from abst.operator.program import run

        return run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
