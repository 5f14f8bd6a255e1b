"""Batches of MuJoCo simulations: models, threads and contacts."""
