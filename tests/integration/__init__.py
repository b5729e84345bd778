"""Tests that start real processes and speak to them over real sockets."""
