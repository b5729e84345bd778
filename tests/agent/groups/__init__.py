"""Groups, networks and values, as agents have them."""
