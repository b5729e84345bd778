"""Tests of ``abst.device.streams``."""
