"""A lab: networks, a realm or two, and devices, in which a test reads like a story."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from unittest import SkipTest

from twisted.trial.unittest import TestCase

from tests.lab.devices import LabDevice, LabRealm
from tests.lab.network import PREFIX, Interface, Lan, Network, why_impossible


class Lab:
    """What a scenario happens in. A context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-", dir="/tmp"))
        self._lans = 0
        self._realms: list[LabRealm] = []
        self.devices: list[LabDevice] = []
        try:
            self._network = Network()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                for device in self.devices:
                    if found := device.tracebacks():
                        raise AssertionError(found)
            else:
                # The folder goes, so what may explain it is shown now.
                sys.stdout.writelines(device.last_words() for device in self.devices)
                sys.stdout.write("\n    ")
        finally:
            self._close()

    def lan(
        self,
        name: str,
        ipv4: str | None = "",
        ipv6: str | None = None,
        *,
        multicast: bool = True,
    ) -> Lan:
        """Make an Ethernet.

        Args:
            name: its name.
            ipv4: its range, or None for no IPv4; by default one of its own.
            ipv6: its range, or None for no IPv6 but the link's own.
            multicast: whether it carries multicast, as some do not.
        """
        self._lans += 1
        ranges = [f"192.168.{self._lans}.0/24" if ipv4 == "" else ipv4, ipv6]
        return Lan(self._network, name, [found for found in ranges if found], multicast=multicast)

    def internet(self) -> Lan:
        """Make the network in which routers and realms have public addresses."""
        return Lan(self._network, "internet", ["203.0.113.0/24"], multicast=False)

    def realm(self, lan: Lan, name: str = "realm") -> LabRealm:
        """Start a realm on a host of its own."""
        host = self._network.namespace(name)
        interface = Interface(self._network, host)
        interface.join(lan)
        realm = LabRealm(self._folder / name, host, interface)
        self._realms.append(realm)
        return realm

    def device(self, name: str, *lans: Lan) -> LabDevice:
        """Make a device on a host of its own, with an interface in each LAN; start its agent."""
        host = self._network.namespace(name)
        interfaces = [Interface(self._network, host, number) for number in range(len(lans))]
        for interface, lan in zip(interfaces, lans, strict=True):
            interface.join(lan)
        device = LabDevice(self._folder / name, host, interfaces)
        self.devices.append(device)
        return device

    def _close(self) -> None:
        # A stopped process is killed all the same, and one that has gone is no reason to stop here.
        for device in self.devices:
            with contextlib.suppress(Exception):
                device.kill()
        for realm in self._realms:
            with contextlib.suppress(Exception):
                realm.kill()
        self._network.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class LabTestCase(TestCase):
    """A scenario; ``make lab`` runs it."""

    def setUp(self) -> None:
        if why := why_impossible():
            raise SkipTest(why)

    def tell(self, words: str) -> None:
        """Tell a figure to whoever runs this."""
        sys.stdout.write(f"\n    {words} ... ")
        sys.stdout.flush()
