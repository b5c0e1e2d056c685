"""Retrieval as an endpoint on Ray Serve."""
