"""The realm's tests."""
