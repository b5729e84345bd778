"""Measure ABST from outside, beside other programs, on the same work.

``python -m benchmarks`` starts each server as a process of its own, loads it on the loopback
interface, and prints what it cost. ``benchmarks.__main__`` says what is measured and how.
"""
