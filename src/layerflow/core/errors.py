"""Errors that a user can mend."""


class UserError(ValueError):
    """A command that cannot be carried out as given; the message names the value and the way out."""
