"""The same as `amco-jax sensitivity`; see --help."""

from amco_jax.commands import start

if __name__ == "__main__":
    start("amco_jax.commands.sensitivity")
