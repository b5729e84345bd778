"""The agent's tests."""
