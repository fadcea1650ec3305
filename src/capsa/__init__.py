"""capsa: OCI containers as sub-inits, on Linux and on Genode."""

__version__ = "0.1.0"
