"""The command that `edge_fleet` adds to `amco-jax`."""
