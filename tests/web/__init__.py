"""A realm's page in a real browser, and its metrics before promtool: `make web-test`."""
