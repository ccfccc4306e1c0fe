"""The same as `amco-jax fleet`; see --help."""

from amco_jax.commands import start

if __name__ == "__main__":
    start("edge_fleet.commands.fleet")
