"""A realm for who was invited, invited devices that talk, and strangers that attack it.

Owns the three processes and what is measured of them, not what is expected: that is the scenarios'.
The realm may be in one network namespace, the devices in another one and the strangers in a third.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from abst.address import RealmAddress
from abst.operator.place import Place
from tests.integration.realm_process import TWIST, RealmProcess
from tests.load.crowd_process import ROOT, CrowdProcess
from tests.load.figures import MEGABYTE, tell

TALKING = 20
IDLE = 5
WORDS_PER_SECOND = 10.0
CUTS_PER_SECOND = 1.0
"""How often a device that does not talk loses its connection: others keep being let in."""

LOOK_SECONDS = 0.5
INVITATION_SECONDS = 3600
ARRIVAL_SECONDS = 30.0
PATIENCE_SECONDS = 30.0


def place_of(realm: RealmProcess) -> Place:
    """Return where a realm takes its operator's commands."""
    state = realm.folder / "home" / ".local" / "state" / "abst-realm"
    return Place(state, realm.folder / "realm.toml")


@dataclass(frozen=True)
class Blow:
    """What strangers do for a while.

    Attributes:
        attacks: names of ``attacks.ATTACKS``, done in turn.
        each_second: how many connections they begin in a second.
        at_once: how many they have at once at most.
    """

    attacks: tuple[str, ...]
    each_second: float = 100.0
    at_once: int = 1000

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return self.attacks[0] if len(self.attacks) == 1 else "all of them in turn"


@dataclass(frozen=True)
class Camp:
    """Where a process runs.

    Attributes:
        within: the beginning of a command line that runs a command there.
        addresses: those that it connects from.
        host: the realm's address there.
    """

    within: Sequence[str] = ()
    addresses: Sequence[str] = ("127.0.0.1",)
    host: str = "127.0.0.1"


HERE = Camp()


@dataclass(frozen=True)
class Phase:
    """What was measured while something went on.

    Attributes:
        name: what went on.
        seconds: for how long.
        p50_ms, p99_ms, slowest_ms: how long packets between invited devices took.
        losses: how many invited devices lost their connections.
        intrusions: how many packets came to them from strangers.
        returns: how many invited devices have come back that had cut their own connections.
        slowest_return_seconds: how long one took at most, or has been away.
        cpu_share: of one processor, the realm's.
        most_bytes: the realm's memory at most.
        log_lines: how many the realm has written.
        tried: how many connections the strangers have made.
    """

    name: str
    seconds: float
    p50_ms: float
    p99_ms: float
    slowest_ms: float
    losses: int
    intrusions: int
    returns: int
    slowest_return_seconds: float
    cpu_share: float
    most_bytes: int
    log_lines: int
    tried: int

    def tell(self) -> None:
        """Tell it to whoever runs this."""
        tell(
            f"{self.name}: p50 {self.p50_ms} ms, p99 {self.p99_ms}, slowest {self.slowest_ms}; "
            f"back in {self.slowest_return_seconds} s; realm {100 * self.cpu_share:.0f} % CPU, "
            f"{self.most_bytes / MEGABYTE:.0f} MiB, {self.log_lines} lines of log; "
            f"{self.tried} attacks"
        )


class Siege:
    """The three of them. A context manager that leaves nothing running.

    Args:
        folder: where the realm's home is.
        realm, devices, strangers: where each runs.
    """

    def __init__(
        self,
        folder: Path,
        realm: Camp = HERE,
        devices: Camp = HERE,
        strangers: Camp = HERE,
    ) -> None:
        listen = f"tcp:0:interface={realm.host}"
        self.realm = RealmProcess(
            folder, "--listen", listen, access="invited", command=[*realm.within, *TWIST]
        )
        self._strangers = strangers
        self._crowd: CrowdProcess | None = None
        try:
            self._port = self.realm.port
            self._crowd = CrowdProcess(
                self._port,
                f"--host={devices.host}",
                f"--invitation={self._invite(TALKING + IDLE)}",
                talking=TALKING,
                idle=IDLE,
                addresses=devices.addresses,
                within=devices.within,
            )
            self._crowd.until_here(ARRIVAL_SECONDS)
            self._crowd.ask(talk=WORDS_PER_SECOND, cut=CUTS_PER_SECOND)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Siege:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """End all of them."""
        if self._crowd is not None:
            self._crowd.end()
        self.realm.kill()

    def _invite(self, uses: int) -> str:
        """Return an invitation for so many devices."""
        answer = place_of(self.realm).ask("invite", uses=uses, seconds=INVITATION_SECONDS, note="")
        invitation = RealmAddress.parse(answer["links"][0]).invitation
        assert invitation is not None
        return invitation

    def quiet(self, seconds: float) -> Phase:
        """Measure while nothing else goes on."""
        return self._measure("quiet", seconds, None)

    def attack(self, blow: Blow, seconds: float) -> Phase:
        """Measure while strangers attack."""
        words = [*self._strangers.within, sys.executable, "-m", "tests.load.attacker"]
        words += [f"--host={self._strangers.host}", f"--port={self._port}"]
        words += [f"--each-second={blow.each_second}", f"--at-once={blow.at_once}"]
        words += [f"--seconds={seconds}"]
        words += [f"--attack={attack}" for attack in blow.attacks]
        words += [f"--address={address}" for address in self._strangers.addresses]
        strangers = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            return self._measure(blow.name, seconds, strangers)
        finally:
            if strangers.poll() is None:
                strangers.kill()
            strangers.communicate(timeout=PATIENCE_SECONDS)

    def _measure(self, name: str, seconds: float, strangers: subprocess.Popen[str] | None) -> Phase:
        crowd, realm = self._crowd, self.realm
        assert crowd is not None
        crowd.ask()
        begun, computed, lines = time.monotonic(), realm.cpu_seconds(), len(realm.output.lines)
        most_bytes = 0
        while (left := begun + seconds - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))
            most_bytes = max(most_bytes, realm.resident_bytes())
        found = crowd.ask()
        computed = realm.cpu_seconds() - computed
        passed = time.monotonic() - begun
        tried = 0
        if strangers is not None:
            said, _ = strangers.communicate(timeout=PATIENCE_SECONDS)
            tried = json.loads(said)["tried"]
        return Phase(
            name,
            passed,
            found["p50_ms"],
            found["p99_ms"],
            found["slowest_ms"],
            sum(found["losses"].values()),
            found["intrusions"],
            found["returns"],
            found["slowest_return_seconds"],
            computed / passed,
            most_bytes,
            len(realm.output.lines) - lines,
            tried,
        )
