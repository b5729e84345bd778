"""What a realm shows to whoever runs it: metrics, status, and a page with both."""
