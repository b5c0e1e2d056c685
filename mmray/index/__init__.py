"""Versioned vector indexes: build, publish, open."""
