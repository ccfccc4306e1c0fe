"""Image services: what repairing an image costs on a device."""

from amco_jax.service.images import (
    MAX_ITEMS,
    ImageService,
    as_service,
)

__all__ = [
    "MAX_ITEMS",
    "ImageService",
    "as_service",
]
