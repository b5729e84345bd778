"""``python -m benchmarks``: measure ABST beside other programs.

What is measured of a realm and of other servers: packets per second; packets per second of the
server's CPU; latency, where one peer waits for the other; memory per idle connection, at once and
after traffic. The loads are in ``benchmarks.loads``. The ratio to nats-server is what a change
should be judged by: it is taken within one round, so that the machine falls out of it.

The same work for all: TLS 1.3 from the first byte, with a certificate on both sides and Ed25519
keys in all of them, TLS_AES_128_GCM_SHA256 (the generator offers nothing else: see
``openssl.cnf``), and no TLS session resumption. The key exchange is what both sides' TLS libraries
like best: no handshake falls into a window that is timed. What differs: a realm's devices have
self-signed certificates, one each, and the realm proves each packet's sender; the clients of the
brokers share one certificate signed by an authority. The payload is the same; the header around it
is each protocol's own. TLS itself is Go's in nats-server, and OpenSSL in the others. What was
negotiated stands above the table.

The fan-out loads (``benchmarks.fanout``) have one peer send to a hundred and to a thousand others:
a realm's peer group beside topics of the brokers, with TLS and without. The value loads
(``benchmarks.values``) put, get and watch the values of a group beside keys of Redis.

The message loads look at more than a server: they measure what a message from one application to
another costs with the libraries that applications use, as ``benchmarks.messages`` says. Two devices
with a realm stand beside two clients of aiomqtt with mosquitto, and two of autobahn with crossbar.

The circuit loads (``benchmarks.circuits``) fill circuits through a realm, in plain legs, as they
fill what strelaysrv, magic-wormhole's transit relay and socat join. The files load
(``benchmarks.files``) sends a large file with ``abst send`` through a realm, with ``wormhole send``
through a relay, and with ``scp``, and counts everything that took part.

The generator is one process, and needs a CPU of its own to be no limit: where the column
"generator CPU" comes near 100 %, packets per second say little about the server, and packets per
CPU second still hold. A whole run takes about forty minutes.

Exit status: 0 if all runs gave figures, whatever they are; 1 if one failed; 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TypeVar

from benchmarks import (
    circuit_report,
    fanout_report,
    file_report,
    measure,
    message_report,
    network,
    report,
    value_report,
)
from benchmarks.abst_circuits import AbstCircuits
from benchmarks.abst_files import AbstFiles
from benchmarks.abst_group import AbstGroup
from benchmarks.abst_realm import DEFAULT_COMMAND, AbstRealm
from benchmarks.abst_values import AbstValues
from benchmarks.certificates import Authority, make_authority
from benchmarks.circuits import CIRCUIT_LOADS
from benchmarks.errors import ServerNotInstalled
from benchmarks.fanout import FANOUT_LOADS
from benchmarks.fanout_servers import FanoutMosquitto, FanoutNats, FanoutServer
from benchmarks.files import Files
from benchmarks.loads import LOADS, Bounds
from benchmarks.message_pairs import AbstDevices, MqttClients, Pair, WampClients
from benchmarks.messages import MESSAGE_LOADS
from benchmarks.mosquitto import Mosquitto
from benchmarks.movers import Mover
from benchmarks.nats import NatsServer
from benchmarks.redis import Redis
from benchmarks.relays import Relay
from benchmarks.scp_files import ScpFiles
from benchmarks.servers import Server
from benchmarks.socat import Socat
from benchmarks.strelaysrv import Strelaysrv
from benchmarks.transit_relay import TransitRelay
from benchmarks.value_servers import ValueServer
from benchmarks.values import VALUE_LOADS, sync_seconds
from benchmarks.wormhole_files import WormholeFiles

# Says that this process is the one that works, and how TCP does in it.
_ALGORITHM = "ABST_BENCHMARKS_CONGESTION_CONTROL"
_OPENSSL_CONF = Path(__file__).with_name("openssl.cnf")
_SERVER_NAMES = (
    "abst", "nats", "mosquitto", "redis", "crossbar", "strelaysrv", "transit-relay", "socat",
    "wormhole", "scp",
)  # fmt: skip
_LOAD_NAMES = (
    *(load.name for load in LOADS),
    *(load.name for load in FANOUT_LOADS),
    *(load.name for load in VALUE_LOADS),
    *(load.name for load in MESSAGE_LOADS),
    *(load.name for load in CIRCUIT_LOADS),
    Files.name,
)
_MOST_FILES = 16384

_Any = TypeVar("_Any")


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for, and return the exit status."""
    options = _parse(arguments)
    if _ALGORITHM not in os.environ:
        # OpenSSL reads its configuration once, when it is loaded: start again with ours.
        command = [sys.executable, "-m", "benchmarks", *arguments]
        algorithm, command = network.with_algorithm(options.congestion_control, command)
        own = {"OPENSSL_CONF": str(_OPENSSL_CONF)}
        os.execve(command[0], command, own | os.environ | {_ALGORITHM: algorithm})
    signal.signal(signal.SIGTERM, _end)
    _allow_open_files()
    try:
        return _run(options)
    except KeyboardInterrupt:
        return 130


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure ABST, beside other programs, on the same work.",
    )
    add = parser.add_argument
    add("--seconds", type=_positive, default=5.0, help="length of a timed load (%(default)s)")
    add("--rounds", type=_count, default=3, help="rounds, the median of which counts (%(default)s)")
    add("--only", nargs="+", choices=_LOAD_NAMES, default=_LOAD_NAMES, metavar="LOAD",
        help=f"of the loads: {', '.join(_LOAD_NAMES)}")  # fmt: skip
    add("--server", nargs="+", choices=_SERVER_NAMES, default=_SERVER_NAMES, metavar="SERVER",
        help=f"of the servers: {', '.join(_SERVER_NAMES)}")  # fmt: skip
    add("--at-most", type=_count, default=1000, metavar="N",
        help="no more pairs and idle connections than this, for a quick look")  # fmt: skip
    add("--megabytes", type=_count, default=2000, metavar="N",
        help="size of the file that is sent, in millions of bytes (%(default)s)")  # fmt: skip
    add("--congestion-control", default=network.DEFAULT_ALGORITHM, metavar="NAME",
        help="of TCP, on a loopback interface of its own if that can be (%(default)s)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="also write all samples to this file")
    add("--realm-command", type=shlex.split, default=list(DEFAULT_COMMAND), metavar="COMMAND",
        help="the realm to measure; --listen, --state and --config are added")  # fmt: skip
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    loads = [load for load in LOADS if load.name in options.only]
    fanout_loads = [load for load in FANOUT_LOADS if load.name in options.only]
    value_loads = [load for load in VALUE_LOADS if load.name in options.only]
    message_loads = [load for load in MESSAGE_LOADS if load.name in options.only]
    circuit_loads = [load for load in CIRCUIT_LOADS if load.name in options.only]
    file_loads = [Files(options.megabytes)] if Files.name in options.only else []
    bounds = Bounds(options.seconds, options.at_most)
    with tempfile.TemporaryDirectory(prefix="abst-benchmarks-") as name:
        folder = Path(name)
        authority = make_authority(folder / "authority")
        servers = _find_servers(folder, authority, options) if loads else []
        fans = _find_fanout_servers(folder, authority, options) if fanout_loads else []
        stores = _find_value_servers(folder, authority, options) if value_loads else []
        pairs = _find_pairs(folder, authority, options) if message_loads else []
        relays = _find_relays(folder, options) if circuit_loads else []
        results = measure.Results()
        measure.run(results, servers, loads, options.rounds, bounds, folder, _say)
        measure.run(results, fans, fanout_loads, options.rounds, bounds, folder, _say)
        disk_seconds = sync_seconds(folder) if stores else None
        measure.run(results, stores, value_loads, options.rounds, bounds, folder, _say)
        measure.take_turns(
            results, pairs, message_loads, options.rounds, folder, _say,
            lambda pair, load, work: load.run(pair, work, bounds),
        )  # fmt: skip
        measure.take_turns(
            results, relays, circuit_loads, options.rounds, folder, _say,
            lambda relay, load, work: load.run(relay, work, bounds),
        )  # fmt: skip
        movers = _find_movers(folder, options) if file_loads else []
        for load in file_loads:
            with load.folder() as file_folder:
                measure.take_turns(
                    results, movers, [load], options.rounds, file_folder, _say,
                    lambda mover, load, work: load.run(mover, work),
                )  # fmt: skip
    bars = [
        *report.bars(loads, results),
        *fanout_report.bars(fanout_loads, results),
        *value_report.bars(value_loads, results),
        *message_report.bars(results),
        *circuit_report.bars(results),
        *file_report.bars(results),
    ]
    for lines in (
        report.head(servers, results, os.environ[_ALGORITHM]),
        fanout_report.head(fans, results),
        value_report.head(stores, results, disk_seconds),
        message_report.head(pairs),
        circuit_report.head(relays),
        file_report.head(movers),
        report.tables(servers, loads, results),
        fanout_report.tables(fans, fanout_loads, results),
        value_report.tables(stores, value_loads, results),
        message_report.tables(pairs, message_loads, results),
        circuit_report.tables(relays, circuit_loads, results),
        file_report.tables(movers, file_loads, results),
        report.ratios(loads, results),
        fanout_report.ratios(fanout_loads, results),
        value_report.ratios(value_loads, results),
        message_report.ratios(results),
        circuit_report.ratios(results),
        file_report.ratios(results),
        bars,
    ):
        for line in lines:
            print(line)
    if options.json:
        given = {key: str(value) for key, value in vars(options).items()}
        text = report.as_json(
            [*servers, *fans, *stores, *pairs, *relays, *movers], bars, results, given
        )
        options.json.write_text(text + "\n")
    for sample in results.failures():
        where = f"{sample.load} on {sample.server}, round {sample.round + 1}"
        _say(f"FAILED: {where}: {sample.failure}")
    return 1 if results.failures() else 0


def _find_servers(
    folder: Path, authority: Authority, options: argparse.Namespace
) -> Sequence[Server]:
    makers: Mapping[str, Callable[[], Server]] = {
        "abst": lambda: AbstRealm(folder / "devices", options.realm_command),
        "nats": lambda: NatsServer(authority),
        "mosquitto": lambda: Mosquitto(authority),
    }
    return _find(makers, options, "")


def _find_fanout_servers(
    folder: Path, authority: Authority, options: argparse.Namespace
) -> Sequence[FanoutServer]:
    makers: Mapping[str, Callable[[], Sequence[FanoutServer]]] = {
        "abst": lambda: [AbstGroup(folder / "members", options.realm_command)],
        "nats": lambda: [FanoutNats(authority), FanoutNats(authority, tls=False)],
        "mosquitto": lambda: [FanoutMosquitto(authority), FanoutMosquitto(authority, tls=False)],
    }
    return [server for servers in _find(makers, options, "fan-out: ") for server in servers]


def _find_value_servers(
    folder: Path, authority: Authority, options: argparse.Namespace
) -> Sequence[ValueServer]:
    makers: Mapping[str, Callable[[], Sequence[ValueServer]]] = {
        "abst": lambda: [AbstValues(folder / "writers", options.realm_command)],
        "redis": lambda: [Redis(authority), Redis(authority, tls=True)],
    }
    return [server for servers in _find(makers, options, "values: ") for server in servers]


def _find_pairs(folder: Path, authority: Authority, options: argparse.Namespace) -> Sequence[Pair]:
    makers: Mapping[str, Callable[[], Pair]] = {
        "abst": lambda: AbstDevices(folder / "pair", options.realm_command),
        "mosquitto": lambda: MqttClients(authority),
        "crossbar": lambda: WampClients(authority),
    }
    return _find(makers, options, "messages: ")


def _find_relays(folder: Path, options: argparse.Namespace) -> Sequence[Relay]:
    makers: Mapping[str, Callable[[], Relay]] = {
        "abst": lambda: AbstCircuits(folder / "circuit-devices", options.realm_command),
        "strelaysrv": lambda: Strelaysrv(folder / "strelaysrv-peers"),
        "transit-relay": TransitRelay,
        "socat": Socat,
    }
    return _find(makers, options, "circuits: ")


def _find_movers(folder: Path, options: argparse.Namespace) -> Sequence[Mover]:
    makers: Mapping[str, Callable[[], Mover]] = {
        "abst": lambda: AbstFiles(folder / "file-realm", options.realm_command),
        "wormhole": WormholeFiles,
        "scp": ScpFiles,
    }
    return _find(makers, options, "files: ")


def _find(
    makers: Mapping[str, Callable[[], _Any]], options: argparse.Namespace, what: str
) -> Sequence[_Any]:
    """Make those that the options name, and say which are not installed."""
    found = []
    for name, make in makers.items():
        if name in options.server:
            try:
                found.append(make())
            except ServerNotInstalled as reason:
                print(f"skipped: {what}{reason}", flush=True)
    return found


def _allow_open_files() -> None:
    """Raise the limit on open files, for the generator and for the servers that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _MOST_FILES:
        most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _end(number: int, _: FrameType | None) -> None:
    """Turn a signal into an exception, so that the servers are stopped on the way out."""
    sys.exit(128 + number)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _positive(text: str) -> float:
    number = float(text)
    if not 0.1 <= number <= 600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 600")
    return number


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 10000")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
