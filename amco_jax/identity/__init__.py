"""The identity of user code: a digest of everything in it that results depend on."""

from amco_jax.identity.attributes import attribute_of
from amco_jax.identity.digest import (
    Identity,
    code_version,
    hashable,
    identify,
    name_of,
    program_cache,
)

__all__ = [
    "Identity",
    "attribute_of",
    "code_version",
    "hashable",
    "identify",
    "name_of",
    "program_cache",
]
