"""Stable Diffusion 1.5 image repair and its latency profile; nothing in `amco_jax` imports it."""
