"""Files of agents and learners: what they hold, and how they are written and read."""
