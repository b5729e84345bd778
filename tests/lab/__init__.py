"""Devices and realms, each in a network namespace of its own: `make lab` runs these."""
