"""Image services: the cost of repairing an image on a device."""

from amco_jax.service.images import (
    ImageService,
    as_service,
)

__all__ = [
    "ImageService",
    "as_service",
]
