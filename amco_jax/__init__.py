"""AMCo-JAX: a vectorised simulator of collaborative edge computing for AIGC services.

The public names are declared in `__init__.pyi`, which type checkers read too. Each is imported on first use,
so that `import amco_jax` is quick and imports no JAX.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
