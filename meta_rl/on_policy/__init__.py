"""The base of on-policy agents, which learn from whole trials by PPO."""
