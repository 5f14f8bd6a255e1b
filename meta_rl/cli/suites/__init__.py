"""Suites of trainings: their tables, their cells, and how cells run on one or many machines."""
