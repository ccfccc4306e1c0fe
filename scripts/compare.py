"""The same as `amco-jax compare`; see --help."""

from amco_jax.commands import start

if __name__ == "__main__":
    start("amco_jax.commands.compare")
