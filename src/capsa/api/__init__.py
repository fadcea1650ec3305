"""Interfaces that other tools speak to the engine."""
