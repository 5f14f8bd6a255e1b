"""Batches of task environments, and views of them."""
