"""Few-shot learners."""
