"""What the console command reports in one line.

The standard library only: `make` needs it before there is a virtual environment.
"""


class CommandError(RuntimeError):
    """A command cannot go on, for a reason that the user can mend; the message is all that the user needs to see."""
