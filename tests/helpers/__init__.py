"""Helpers that several tests share."""

from helpers import typechecker as typechecker  # jaxtyping's plugin looks it up as an attribute

typechecker.wrap_no_more_than_needed()  # before any other helper imports the package
