"""Helpers that several tests share."""

from helpers import typechecker as typechecker  # jaxtyping's plugin looks it up as an attribute

typechecker.leave_unannotated_functions_alone()  # before any other helper imports the package
