"""Data sets, and conversions of the user's own data to few-shot tasks."""
