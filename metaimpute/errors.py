"""What a user can mend: every such error is a :class:`UserError`, which ends a command with a line and its own exit code."""

from __future__ import annotations

from typing import ClassVar

INTERNAL, USAGE, MISSING, DIVERGED, INTERRUPTED = 1, 2, 3, 4, 130
UNREAD = 141  # as of a process that SIGPIPE ends


class UserError(Exception):
    """Base of all errors whose message is for the user. One that is none is reported as a fault of the package.

    Attributes:
        exit_code: of a command that ends with it. prefix: what the command says before the message.
    """

    exit_code: ClassVar[int] = USAGE
    prefix: ClassVar[str] = ""
