"""Write the figures of the message loads, and compare them with what the project wants to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.measure import Results
from benchmarks.message_pairs import AbstDevices, MqttClients, Pair, WampClients
from benchmarks.messages import MessageLoad
from benchmarks.report import Bar, Columns, table

_OURS, _MQTT, _WAMP = AbstDevices.name, MqttClients.name, WampClients.name
#: Messages per second, and times, of the two devices, divided by those of the two MQTT clients.
PIPELINED_BAR = 1.0
LATENCY_BAR = 2.0

_PIPELINED, _ONE = "messages-pipelined", "messages-one"
_RECEIVED = "received_per_second"
_ACKNOWLEDGED, _ANSWERED = "acknowledged_p50_ms", "answered_p50_ms"

_COLUMNS: tuple[Columns, ...] = (
    (
        ("window", "window", "{:,.0f}"),
        ("received/s", _RECEIVED, "{:,.0f}"),
        ("acknowledged/s", "acknowledged_per_second", "{:,.0f}"),
        ("sender CPU µs", "sender_cpu_us", "{:.1f}"),
        ("receiver CPU µs", "receiver_cpu_us", "{:.1f}"),
        ("server CPU µs", "server_cpu_us", "{:.1f}"),
    ),
    (
        ("acknowledged p50 ms", _ACKNOWLEDGED, "{:.3f}"),
        ("p99 ms", "acknowledged_p99_ms", "{:.3f}"),
        ("answered p50 ms", _ANSWERED, "{:.3f}"),
        ("p99 ms", "answered_p99_ms", "{:.3f}"),
    ),
)
_NOTES = """\
A message goes from one process through the server to another. *Acknowledged*: the Deferred or the
coroutine that sent it is done. With abst the other device has the message then; with aiomqtt (QoS
1) and autobahn only the server has. *Answered*: the other application has sent it back (with
autobahn: has returned it from a call), and it has come: that means the same for all. *Received*
counts, in the pipelined load, what the receiver's application was handed. CPU is user and system
time of each process, for each message received. The window is how many messages are out and not
acknowledged: for each pair what suits it. The senders of aiomqtt and autobahn also look, at no
cost, how far their receiver is behind, and wait for it. Two devices encrypt end to end besides, and
a realm cannot read what it relays; the other servers can. All use TLS 1.3, certificates on both
sides, and the cipher suite that their libraries prefer. Figures are medians of the rounds."""


def head(pairs: Sequence[Pair]) -> Iterator[str]:
    """Say which libraries and servers the pairs are."""
    for pair in pairs:
        yield f"{pair.name} {pair.version}"


def tables(pairs: Sequence[Pair], loads: Sequence[MessageLoad], results: Results) -> Iterator[str]:
    """Write one row per load and pair."""
    lines = [
        line
        for columns in _COLUMNS
        for line in table(columns, pairs, loads, results, kind="clients")
    ]
    if lines:
        yield from [*lines, "", _NOTES]


def bars(results: Results) -> Iterator[Bar]:
    """Compare with the two MQTT clients, where this run has figures for both."""
    ratio = results.ratio(_PIPELINED, _OURS, _MQTT, _RECEIVED)
    if ratio is not None:
        what = f"messages per second, pipelined, received, ratio to {_MQTT}"
        yield Bar(_PIPELINED, what, ratio, PIPELINED_BAR, ratio >= PIPELINED_BAR)
    for ours, theirs, what in (
        (_ACKNOWLEDGED, _ACKNOWLEDGED, "acknowledged by the other device, ratio to {} by broker"),
        (_ACKNOWLEDGED, _ANSWERED, "acknowledged by the other device, ratio to {} answered"),
        (_ANSWERED, _ANSWERED, "answered by the other application, ratio to {} answered"),
    ):
        ratio = results.ratio(_ONE, _OURS, _MQTT, ours, theirs)
        if ratio is not None:
            what = f"p50 of messages one at a time, {what.format(_MQTT)}"
            yield Bar(_ONE, what, ratio, LATENCY_BAR, ratio <= LATENCY_BAR)


def ratios(results: Results) -> Iterator[str]:
    """Write the ratios to the two WAMP clients, for which there is no bar."""
    for load, figure, what in (
        (_PIPELINED, _RECEIVED, "messages per second, pipelined, received"),
        (_ONE, _ACKNOWLEDGED, "p50 of messages one at a time, acknowledged"),
        (_ONE, _ANSWERED, "p50 of messages one at a time, answered"),
    ):
        ratio = results.ratio(load, _OURS, _WAMP, figure)
        if ratio is not None:
            yield f"{what}, ratio to {_WAMP}: {ratio:.2f}"
