"""The agent: a device that people and scripts use through the command line.

An application of the device library like any other: it has a home on disk, messages, files, and a
Unix socket over which the command line asks it for things.
"""
