"""The commands that `sd_repair` adds to `amco-jax`."""
