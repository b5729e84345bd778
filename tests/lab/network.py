"""Hosts in network namespaces, and the networks between them.

Owns the namespaces, addresses, routes and NAT, and that none of it stays behind: a lab removes what
it made when it ends, and what a killed one has left when it begins. The wires are ``switch``'s.
"""

from __future__ import annotations

import atexit
import contextlib
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.lab.switch import DONE

ROOT = Path(__file__).parent.parent.parent
PREFIX = "abst-lab"
COMMAND_SECONDS = 20.0
Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""An address with the length of its network's prefix."""

TRANSLATE = "table ip nat { chain out { type nat hook postrouting priority 100; %s masquerade; }; }"


def why_impossible() -> str | None:
    """Return why there can be no lab on this machine, or None."""
    if not os.environ.get("ABST_LAB"):
        return "run it with: make lab"
    if not sys.platform.startswith("linux"):
        return "make lab: network namespaces are Linux's"
    if os.geteuid() != 0:
        return "make lab: only root may make network namespaces"
    if shutil.which("ip") is None:
        return "make lab: there is no 'ip' here (package iproute2)"
    if not Path("/dev/net/tun").exists():
        return "make lab: there is no /dev/net/tun here (kernel module tun)"
    trial = f"{PREFIX}-{os.getpid()}-trial"
    made = subprocess.run(
        ["ip", "netns", "add", trial], capture_output=True, text=True, timeout=COMMAND_SECONDS
    )
    if made.returncode:
        return f"make lab: this machine allows no network namespaces ({made.stderr.strip()})"
    run("ip", "netns", "del", trial)
    return None


def run(*command: str, text: str | None = None) -> str:
    """Run a command that has to succeed, and return what it printed."""
    done = subprocess.run(
        command, input=text or "", capture_output=True, text=True, timeout=COMMAND_SECONDS
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")
    return done.stdout


def namespaces() -> list[str]:
    """Return the names of the machine's network namespaces."""
    return [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line]


def remove_namespace(name: str) -> None:
    """Kill what still runs in a namespace of a lab, and remove it."""
    assert name.startswith(PREFIX)
    for line in run("ip", "netns", "pids", name).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line), signal.SIGKILL)
    run("ip", "netns", "del", name)


def remove_leftovers() -> None:
    """Remove what labs have left whose processes were killed; the names have their numbers."""
    for name in namespaces():
        if _is_left(name):
            remove_namespace(name)
    for folder in Path("/tmp").glob(f"{PREFIX}-*"):
        if _is_left(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left(name: str) -> bool:
    if not name.startswith(f"{PREFIX}-"):
        return False
    number = name.removeprefix(f"{PREFIX}-").split("-")[0]
    return number.isdigit() and not Path("/proc", number).exists()


class Namespace:
    """One network namespace.

    Attributes:
        name: by which ``ip netns`` knows it.
    """

    def __init__(self, name: str) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{name}"
        run("ip", "netns", "add", self.name)
        # An IPv6 address is used at once: nobody else in a lab has the same one.
        self.set("ipv6/conf/default/accept_dad", 0)
        self.ip("link", "set", "lo", "up")

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs a command in here."""
        return ["ip", "netns", "exec", self.name, *words]

    def ip(self, *words: str) -> str:
        """Run ``ip`` for this namespace."""
        return run("ip", "-n", self.name, *words)

    def set(self, setting: str, value: int) -> None:
        """Change one of the settings in /proc/sys/net."""
        run(*self.command("sh", "-c", f"echo {value} > /proc/sys/net/{setting}"))

    def remove(self) -> None:
        """Remove it, and end what runs there."""
        remove_namespace(self.name)


class Interface:
    """A host's way into a LAN, which it may leave for another one.

    Args:
        network: the lab's.
        host: whose it is.
        number: the how manieth of the host it is, from 0; a lower one is preferred.

    Attributes:
        host: whose it is.
        name: what the host calls it.
        lan: where it is plugged in, or None.
        addresses: its addresses there, with the lengths of their prefixes.
    """

    def __init__(self, network: Network, host: Namespace, number: int = 0) -> None:
        self._network = network
        self._metric = str(100 + number)
        self.host = host
        self.name = f"eth{number}"
        self.lan: Lan | None = None
        self.addresses: list[Address] = []
        self._port = network.new_port(host, self.name)

    def join(self, lan: Lan, *, uplink: bool = False) -> None:
        """Plug it into a LAN, and take addresses there."""
        self.leave()
        self.lan = lan
        self._network.port(self._port, segment=lan.name, uplink=uplink)
        self.addresses = lan.take_addresses()
        lan.interfaces.append(self)
        self.up()

    def leave(self) -> None:
        """Unplug it: the link is down for a moment, and the addresses are gone."""
        self.host.ip("link", "set", self.name, "down")
        self.host.ip("addr", "flush", "dev", self.name)
        self._network.port(self._port, segment=None)
        if self.lan is not None:
            self.lan.interfaces.remove(self)
        self.lan = None
        self.addresses = []

    def down(self) -> None:
        """Take it down: the host knows at once."""
        self.host.ip("link", "set", self.name, "down")

    def up(self) -> None:
        """Bring it up, with the addresses and the routes that it should have."""
        self.host.ip("link", "set", self.name, "up")
        for address in self.addresses:
            self.host.ip("addr", "replace", str(address), "dev", self.name)
        self.route()

    def route(self) -> None:
        """Send what is not for the LAN to its router, if it has one."""
        router = self.lan.router if self.lan is not None else None
        if router is not None and router is not self:
            for gateway in router.addresses:
                way = ("via", str(gateway.ip), "dev", self.name, "metric", self._metric)
                self.host.ip(f"-{gateway.version}", "route", "replace", "default", *way)

    def change_addresses(self, *addresses: Address) -> None:
        """Give the addresses back and take others, the LAN's next ones if none are named."""
        assert self.lan is not None
        for address in self.addresses:
            self.host.ip("addr", "del", str(address), "dev", self.name)
        self.addresses = list(addresses) or self.lan.take_addresses()
        self.up()

    def silence(self, silent: bool = True) -> None:
        """Lose everything from here and to here, while the interface stays up."""
        self._network.port(self._port, silent=silent)


class Lan:
    """One Ethernet with its address ranges.

    Attributes:
        name: its name in the lab.
        interfaces: what is plugged in.
        router: the interface to which hosts send what is not for the LAN, or None.
    """

    def __init__(self, network: Network, name: str, ranges: list[str], *, multicast: bool) -> None:
        self._network = network
        self.name = name
        self.interfaces: list[Interface] = []
        self.router: Interface | None = None
        self._ranges = [ipaddress.ip_network(text) for text in ranges]
        self._taken = 0
        network.segment(name, multicast=multicast)

    def take_addresses(self) -> list[Address]:
        """Return the next address of each range."""
        self._taken += 1
        return [
            ipaddress.ip_interface(f"{found[self._taken]}/{found.prefixlen}")
            for found in self._ranges
        ]

    def nat_to(self, outside: Lan) -> Router:
        """Make a router that translates this LAN's IPv4 addresses to one of another LAN."""
        return Router(self._network, self, outside)

    def netem(self, *, loss: float = 0, delay_ms: float = 0) -> None:
        """Lose so many per cent of the frames, and let the others be so long on their way."""
        self._network.segment(self.name, loss=loss / 100, delay_seconds=delay_ms / 1000)

    def silence(self, silent: bool = True) -> None:
        """Lose everything, while all interfaces stay up."""
        self._network.segment(self.name, silent=silent)

    def isolate(self, isolated: bool = True) -> None:
        """Let hosts reach the router only, and each other no more."""
        self._network.segment(self.name, isolated=isolated)


class Router:
    """A household's router: what is inside can call what is outside, and not the other way."""

    def __init__(self, network: Network, inside: Lan, outside: Lan) -> None:
        if shutil.which("nft") is None:
            raise SkipTest("make lab: NAT needs 'nft' (package nftables)")
        host = network.namespace(f"{inside.name}-router")
        host.set("ipv4/ip_forward", 1)
        self.inside, self.outside = (Interface(network, host, number) for number in (0, 1))
        self.outside.join(outside)
        self.inside.join(inside, uplink=True)
        run(*host.command("nft", "-f", "-"), text=TRANSLATE % "oifname eth1")
        inside.router = self.inside
        for interface in inside.interfaces:
            interface.route()

    def silence(self, silent: bool = True) -> None:
        """Lose everything between the LAN and the world: no FIN, no RST, no word."""
        self.outside.silence(silent)


class Network:
    """Everything that one lab has made of the network."""

    def __init__(self) -> None:
        remove_leftovers()
        atexit.register(self.close)
        self._lock = threading.Lock()
        self._namespaces: list[Namespace] = []
        self._switch: subprocess.Popen[str] | None = None
        self._ports = 0
        try:
            self._wires = self.namespace("wires")
            self._switch = subprocess.Popen(
                self._wires.command(sys.executable, "-m", "tests.lab.switch"),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except BaseException:
            self.close()
            raise

    def namespace(self, name: str) -> Namespace:
        """Make a namespace, which is removed in the end."""
        made = Namespace(name)
        self._namespaces.append(made)
        return made

    def new_port(self, host: Namespace, name: str) -> int:
        """Make an interface in a host's namespace, and return the number of its port."""
        self._ports += 1
        self.port(self._ports)
        self._wires.ip("link", "set", f"p{self._ports}", "netns", host.name, "name", name)
        return self._ports

    def port(self, number: int, **changes: Any) -> None:
        """Change a port, which is made when it is new."""
        self._ask({"port": number, "changes": changes})

    def segment(self, name: str, **changes: Any) -> None:
        """Change a segment, which is made when it is new."""
        self._ask({"segment": name, "changes": changes})

    def _ask(self, request: dict[str, Any]) -> None:
        switch = self._switch
        assert switch is not None and switch.stdin is not None and switch.stdout is not None
        with self._lock:
            switch.stdin.write(json.dumps(request) + "\n")
            switch.stdin.flush()
            answer = switch.stdout.readline()
        if answer != DONE:
            raise AssertionError(f"the switch has ended: {request}")

    def close(self) -> None:
        """Remove everything, at the latest when this process ends."""
        atexit.unregister(self.close)
        if self._switch is not None:
            self._switch.kill()
            self._switch.communicate(timeout=COMMAND_SECONDS)
            self._switch = None
        for namespace in reversed(self._namespaces):
            with contextlib.suppress(AssertionError):
                namespace.remove()
        self._namespaces.clear()
