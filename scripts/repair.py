"""The same as `amco-jax repair`; see --help."""

from amco_jax.commands import start

if __name__ == "__main__":
    start("sd_repair.commands.repair")
