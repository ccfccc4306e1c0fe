"""Image services: the cost of repairing an image on a device."""

from amco_jax.service.images import (
    ALL,
    MAX_ITEMS,
    ImageService,
    as_service,
)

__all__ = [
    "ALL",
    "MAX_ITEMS",
    "ImageService",
    "as_service",
]
