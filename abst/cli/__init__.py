"""The command line: a thin client of the agent, over the Unix socket in the device's home.

``main`` is the command ``abst``. Every command stands in a module of its own, which is loaded when
it is used; none of them fetches Twisted, so a command starts fast.
"""

from __future__ import annotations

from collections.abc import Sequence

INTERRUPTED_STATUS = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: what stands after ``abst``; ``sys.argv[1:]`` when None.
    """
    try:
        from abst.cli.program import run

        return run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
