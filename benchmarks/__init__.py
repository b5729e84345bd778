"""Measure a realm from outside, beside nats-server and mosquitto, on the same work.

``python -m benchmarks`` starts each server as a process of its own, loads it over TLS 1.3 with
client certificates on the loopback interface, and prints what it cost. ``benchmarks.__main__`` says
what is measured and how.
"""
