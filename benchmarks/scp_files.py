"""``scp`` to an sshd on this machine: nothing is between them."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.command import run
from benchmarks.errors import ServerNotInstalled
from benchmarks.movers import RECEIVER, SENDER, Prepared
from benchmarks.process import unused_port
from benchmarks.relays import started

_SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin"
# An empty folder that sshd wants to be there when root starts it. Its service makes it, too, and it
# is left: another sshd may need it by now.
_ROOTS_FOLDER = Path("/run/sshd")
_CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


class ScpFiles:
    """The programs of OpenSSH, as they come; keys and configuration are the run's own."""

    name = "scp"

    def __init__(self) -> None:
        """Find the programs. Raises: ServerNotInstalled."""
        path = f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}"
        self._programs = {}
        for name in ("sshd", "scp", "ssh", "ssh-keygen"):
            program = shutil.which(name, path=path)
            if program is None:
                raise ServerNotInstalled(f"{name} is not installed")
            self._programs[name] = program
        said = subprocess.run([self._programs["ssh"], "-V"], capture_output=True, text=True).stderr
        self.version = said.split(",")[0].strip()

    @contextlib.contextmanager
    def prepare(self, file: Path, folder: Path) -> Iterator[Prepared]:
        """Start sshd; see :class:`benchmarks.movers.Mover`."""
        for name in ("host", "user"):
            key = str(folder / name)
            run([self._programs["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", key], folder)
        port = unused_port()
        configuration = folder / "sshd_config"
        configuration.write_text(_CONFIGURATION.format(port=port, folder=folder))
        inbox = folder / "inbox"
        inbox.mkdir()
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
        send = [self._programs["scp"], "-q", "-F", "/dev/null", "-i", str(folder / "user")]
        send += ["-P", str(port), *(f"-o{option}" for option in options)]
        send += [str(file), f"{getpass.getuser()}@127.0.0.1:{inbox}/"]
        serve = [self._programs["sshd"], "-D", "-e", "-f", str(configuration)]
        if not os.geteuid():
            _ROOTS_FOLDER.mkdir(mode=0o755, exist_ok=True)
        with started(serve, folder, port) as sshd:
            yield Prepared(
                standing=[(RECEIVER, sshd)], commands=[(SENDER, send)], inbox=inbox, cwd=folder
            )
