"""Tests of ``abst.agent.streams``."""
