"""Helpers that several tests share."""

from helpers import typechecker as typechecker  # jaxtyping's plugin looks it up as an attribute
