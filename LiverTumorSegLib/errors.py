"""The errors a user can cause or meet, each with the exit code of the command line."""

import errno

EXIT_BUG = 1


class InputError(ValueError):
    """What the user gave cannot be used: what was expected, what was found, where, what to do."""

    exit_code = 2


class Cancelled(Exception):  # noqa: N818  (the outcome a user asked for, not a fault)
    """Raised by a progress hook to stop a running job; nothing has been written."""

    exit_code = 3


class ResourceError(RuntimeError):
    """Memory or disk space ran out."""

    exit_code = 4


def outcome_of(error: BaseException) -> tuple[int, str]:
    """Exit code and message of what stopped a run; a bug's message is for its report."""
    if isinstance(error, InputError | ResourceError):
        return error.exit_code, str(error)
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return Cancelled.exit_code, "Cancelled."
    if isinstance(error, BrokenPipeError):
        return Cancelled.exit_code, "Stopped: nobody reads the output any more."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ResourceError.exit_code, "The disk is full. Free some space."
    if isinstance(error, MemoryError) or _ran_out_of_memory(error):
        return ResourceError.exit_code, (
            f"Out of memory ({error}). Close other programs, or choose the device cpu if a GPU "
            "ran out."
        )
    return EXIT_BUG, f"{type(error).__name__}: {error}"


def _ran_out_of_memory(error: BaseException) -> bool:
    """Whether torch says so: its accelerators and its CPU allocator use different words."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )
