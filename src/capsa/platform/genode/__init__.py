"""Containers on the Genode OS framework: bundles become sub-inits of a running Genode (docs/genode.md)."""
