"""The loopback interface that a run uses, and how TCP decides there how fast to send.

Linux sends over the loopback interface as over any other, by the machine's algorithm of congestion
control. Some pace what they send (BBR), which is for networks that are slower than the machine: on
this interface it is timers that are measured then, and not who relays. A run therefore has a
loopback interface of its own with CUBIC, which is what Linux uses unless told otherwise. That takes
root, ``unshare`` and ``ip``; a run without them uses the machine's interface, and says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

DEFAULT_ALGORITHM = "cubic"
_SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_TRY_SECONDS = 10.0
_PREPARE = """\
ip link set lo up &&
for net in 127.0.0.0/8 127.0.0.1; do
    ip route replace local $net dev lo table local congctl "$0" || exit
done &&
exec "$@"
"""


def with_algorithm(algorithm: str, command: Sequence[str]) -> tuple[str, list[str]]:
    """Return the algorithm that ``command`` will have, and the command that gives it to it."""
    machines = _SETTING.read_text().strip() if _SETTING.exists() else "unknown"
    unshare, shell = shutil.which("unshare"), shutil.which("sh")
    if algorithm != machines and not os.geteuid() and unshare and shell:
        prefix = [unshare, "--net", shell, "-c", _PREPARE, algorithm]
        if _succeeds([*prefix, "true"]):
            return algorithm, [*prefix, *command]
    return machines, list(command)


def _succeeds(command: Sequence[str]) -> bool:
    try:
        return not subprocess.run(command, capture_output=True, timeout=_TRY_SECONDS).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False
