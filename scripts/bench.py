"""The same as `amco-jax bench`; see --help."""

from amco_jax.commands import start

if __name__ == "__main__":
    start("amco_jax.commands.bench")
