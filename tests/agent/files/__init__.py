"""Tests of ``abst.agent.files.files``."""
