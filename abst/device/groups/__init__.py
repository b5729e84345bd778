"""Peer groups, their values, and networks, on the device's side."""
