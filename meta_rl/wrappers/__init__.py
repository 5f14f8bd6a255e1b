"""Wrappers that change what an agent observes."""
