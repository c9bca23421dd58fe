"""The errors a user can cause or meet, each with the exit code of the command line."""


class InputError(ValueError):
    """What the user gave cannot be used: what was expected, what was found, where, what to do."""

    exit_code = 2


class Cancelled(Exception):  # noqa: N818  (the outcome a user asked for, not a fault)
    """Raised by a progress hook to stop a running job; nothing has been written."""

    exit_code = 3


class ResourceError(RuntimeError):
    """Memory or disk space ran out."""

    exit_code = 4
