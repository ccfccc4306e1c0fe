"""The one exception for bad input from a user."""


class InputError(ValueError):
    """Bad input, in one line that names the field, the value and the legal range."""
