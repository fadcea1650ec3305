"""Containers written to disk and taken up again: what CRIU (criu(8), a program of its own) is told, and how."""
