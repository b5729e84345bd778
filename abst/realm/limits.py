"""Every limit of a realm, with its default and its unit (spec: realm.md, "Limits").

Pure. The configuration file's ``[limits]`` and the map in Back heartbeat have the same names.
"""

from __future__ import annotations

from dataclasses import dataclass

from abst.packets import (
    MAX_COUNT,
    MAX_MEMBERS,
    MAX_PACKET_BYTES,
    MAX_PACKET_BYTES_BEFORE_HELLO,
    MAX_VALUE_BYTES,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a realm lets one device, and all devices together, use.

    Attributes:
        packet_bytes: the largest packet.
        hello_packet_bytes: the largest packet before Hello is accepted.
        hello_seconds: how long a new connection has for its handshake and its Hello.
        heartbeat_seconds: how often a device shall say Hello again.
        silence_seconds: how long a connection may be silent before it is closed.
        queue_bytes: how much may wait for one device that does not read.
        stall_seconds: how long a device may read nothing while something waits for it.
        all_queues_bytes: how much may wait for all devices together.
        connections: how many connections there may be.
        address_connections: how many of one network address, which for IPv6 is a /64.
        device_connections: how many of one device, the legs of circuits aside.
        address_handshakes_per_second: how often a network address may begin a connection; five
            seconds' worth at once.
        handshakes_per_second: the same for all addresses together from which no device has come
            that may be here.
        device_bytes_per_second: how fast one device may send; 0 is no limit.
        device_packets_per_second: the same in packets; 0 is no limit.
        bytes_per_second: how fast all devices together may send; 0 is no limit.
        device_bytes_per_month: how much one device may send, over its circuits too; 0 is no limit.
        bytes_per_month: the same for all devices together; 0 is no limit.
        pairing_windows: how many pairing windows there may be.
        pairing_window_seconds: how long a pairing window stays open.
        pairing_requests_per_minute: how often a device may open a window or look for one.
        circuits: how many circuits there may be, those included that wait for their legs.
        device_circuits: how many of them one device may have.
        circuit_requests_per_minute: how often a device may ask for one.
        circuit_meet_seconds: how long the two legs have to come.
        circuit_idle_seconds: how long nothing may go over a circuit before it is ended.
        circuit_bytes: how much may go over one circuit, both ways together; 0 is no limit.
        circuit_bytes_per_second: how fast; 0 is no limit.
        device_circuit_bytes_per_second: how fast over all circuits of one device; 0 is no limit.
        device_circuit_bytes_per_day: how much over all circuits of one device; 0 is no limit.
        groups: how many peer groups the realm keeps.
        group_members: how many members of a group may be here at once.
        device_groups: how many groups a device may have joined at once, and may have made.
        group_requests_per_minute: how often a device may create, join, leave and say I am here.
        group_idle_days: after how many days a group is forgotten that nobody has joined, and that
            never had a value; 0 for never.
        value_bytes: the largest value, before it is sealed.
        group_values: how many names with values a group may have.
        group_bytes: how much all sealed values of a group may take.
        group_changes: how many of a group's changes the realm remembers at least.
        device_values_bytes: how much all groups that one device has made may take on the disk.
        all_values_bytes: how much all groups may take on the disk, with the changes that are kept.
        value_requests_per_second: how often a device may put, get, delete, list and watch.
        waiting_value_requests: how many of these may wait for their answers, for one device.
    """

    packet_bytes: int = MAX_PACKET_BYTES
    hello_packet_bytes: int = MAX_PACKET_BYTES_BEFORE_HELLO
    hello_seconds: float = 10.0
    heartbeat_seconds: float = 15.0
    silence_seconds: float = 35.0
    queue_bytes: int = 1024 * 1024
    stall_seconds: float = 10.0
    all_queues_bytes: int = 256 * 1024 * 1024
    connections: int = 10_000
    address_connections: int = 1000
    device_connections: int = 32
    address_handshakes_per_second: int = 20
    handshakes_per_second: int = 200
    device_bytes_per_second: int = 0
    device_packets_per_second: int = 0
    bytes_per_second: int = 0
    device_bytes_per_month: int = 0
    bytes_per_month: int = 0
    pairing_windows: int = 1000
    pairing_window_seconds: float = 60.0
    pairing_requests_per_minute: int = 10
    circuits: int = 2000
    device_circuits: int = 200
    circuit_requests_per_minute: int = 600
    circuit_meet_seconds: float = 10.0
    circuit_idle_seconds: float = 3600.0
    circuit_bytes: int = 0
    circuit_bytes_per_second: int = 0
    device_circuit_bytes_per_second: int = 0
    device_circuit_bytes_per_day: int = 0
    groups: int = 10_000
    group_members: int = 2000
    device_groups: int = 100
    group_requests_per_minute: int = 600
    group_idle_days: int = 90
    value_bytes: int = MAX_VALUE_BYTES
    group_values: int = 10_000
    group_bytes: int = 16 * 1024 * 1024
    group_changes: int = 10_000
    device_values_bytes: int = 256 * 1024 * 1024
    all_values_bytes: int = 1024 * 1024 * 1024
    value_requests_per_second: int = 1000
    waiting_value_requests: int = 256

    def __post_init__(self) -> None:
        """Refuse limits that contradict each other.

        Raises:
            ValueError: the text begins with the name of the limit at fault.
        """
        for name, least in _LEAST.items():
            most = _MOST_SECONDS if name.endswith("_seconds") else MAX_COUNT
            value = getattr(self, name)
            if value > most:
                raise ValueError(f"{name}: at most {most}")
            if not value >= least:  # Which is how not-a-number fails too.
                raise ValueError(f"{name}: at least {least:g}")
        if self.packet_bytes > MAX_PACKET_BYTES:
            raise ValueError(f"packet_bytes: at most {MAX_PACKET_BYTES}")
        if self.hello_packet_bytes > self.packet_bytes:
            raise ValueError("hello_packet_bytes: not more than packet_bytes")
        if self.queue_bytes < 2 * self.packet_bytes:
            raise ValueError("queue_bytes: at least two packets, 2 x packet_bytes")
        if self.group_members > MAX_MEMBERS:
            raise ValueError(f"group_members: at most {MAX_MEMBERS}")
        if self.value_bytes > MAX_VALUE_BYTES:
            raise ValueError(f"value_bytes: at most {MAX_VALUE_BYTES}")
        if self.all_queues_bytes < self.queue_bytes:
            raise ValueError("all_queues_bytes: not less than queue_bytes")
        if self.silence_seconds <= 2 * self.heartbeat_seconds:
            raise ValueError("silence_seconds: more than 2 x heartbeat_seconds")


_MOST_SECONDS = 86400

_LEAST: dict[str, float] = {
    "packet_bytes": 1024,
    "hello_packet_bytes": 256,
    "hello_seconds": 0.1,
    "heartbeat_seconds": 0.1,
    "silence_seconds": 0.2,
    "queue_bytes": 32768,  # Whatever one read brings has to fit a queue that is empty.
    "stall_seconds": 0.1,
    "all_queues_bytes": 1,
    "connections": 1,
    "address_connections": 1,
    "device_connections": 2,  # A newer connection comes before the older one is replaced.
    "address_handshakes_per_second": 1,
    "handshakes_per_second": 1,
    "device_bytes_per_second": 0,
    "device_packets_per_second": 0,
    "bytes_per_second": 0,
    "device_bytes_per_month": 0,
    "bytes_per_month": 0,
    "pairing_windows": 1,
    "pairing_window_seconds": 1,
    "pairing_requests_per_minute": 1,
    "circuits": 0,
    "device_circuits": 1,
    "circuit_requests_per_minute": 1,
    "circuit_meet_seconds": 0.1,
    "circuit_idle_seconds": 0.1,
    "circuit_bytes": 0,
    "circuit_bytes_per_second": 0,
    "device_circuit_bytes_per_second": 0,
    "device_circuit_bytes_per_day": 0,
    "groups": 0,
    "group_members": 1,
    "device_groups": 1,
    "group_requests_per_minute": 1,
    "group_idle_days": 0,
    "value_bytes": 0,
    "group_values": 0,
    "group_bytes": 0,
    "group_changes": 1,
    "device_values_bytes": 0,
    "all_values_bytes": 0,
    "value_requests_per_second": 1,
    "waiting_value_requests": 1,
}
