"""The report of a suite: one HTML page that needs no network, and Markdown."""
