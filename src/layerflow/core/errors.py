"""Errors that a user can resolve: one tree, so that every front end can tell them from defects.

Library text names fields; front ends phrase them as an option, a key or a widget.
"""


class UserError(ValueError):
    """An input, a setting or a file that cannot be used; the message names the value and the way out."""


class FieldError(UserError):
    def __init__(self, field: str, message: str):
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message
