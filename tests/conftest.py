"""Property tests draw the same examples on every run, so that a failure is everyone's failure."""

from hypothesis import settings

from amco_jax.runtime import configure

# As the scripts run, and it halves the time to compile.
configure()

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")
