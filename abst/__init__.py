"""ABST: devices that belong together talk privately, straight or through a blind realm."""

__version__ = "0.1.0"
