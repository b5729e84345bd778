"""Streams: connections for any protocol between paired devices (spec: streams.md, circuits.md).

``streams`` is what a device has; ``dial`` and ``circuit_dial`` find what carries a stream,
``offered_circuit`` takes what a peer has asked a realm for, ``opening`` is how one begins, and
``stream`` what it is to an application.
"""
