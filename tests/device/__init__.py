"""The device library's tests."""
