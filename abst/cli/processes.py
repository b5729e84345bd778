"""How a command starts another program of ABST: with this Python and this copy of ABST.

A folder that a person happens to stand in must not decide what runs, so ``-P`` keeps the current
folder out of the module path; a checkout that is not installed is named by ``PYTHONPATH`` instead.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path

import abst


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module."""
    return [sys.executable, "-P", "-m", module, *arguments]


def python_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment in which a new process finds the ABST that runs now."""
    changed = dict(environment)
    root = str(Path(abst.__file__).resolve().parent.parent)
    installed = [*site.getsitepackages(), site.getusersitepackages()]
    if root not in {os.path.realpath(folder) for folder in installed}:
        others = environment.get("PYTHONPATH")
        changed["PYTHONPATH"] = f"{root}{os.pathsep}{others}" if others else root
    return changed
