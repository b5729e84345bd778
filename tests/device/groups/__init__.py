"""Tests of ``abst.device.groups``."""
