"""`python -m amco_jax` is `amco-jax`."""

from amco_jax.commands import main

if __name__ == "__main__":
    main()
