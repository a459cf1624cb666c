"""The two ways a command of this package ends badly."""


class Rejected(Exception):
    """A capture or frame that yields nothing; `reasons` are the names under which it is counted."""

    def __init__(self, *reasons: str, detail: str = "") -> None:
        super().__init__(", ".join(reasons) + (f": {detail}" if detail else ""))
        self.reasons = reasons
        self.detail = detail  # the file or value, and what is wrong with it


class UserError(Exception):
    """The user's input is wrong; the command ends with exit code 1 and no traceback.

    The message is one sentence that names the thing, its value and the remedy.
    """


class NonFiniteError(RuntimeError):
    """A loss or gradient became NaN or infinite.

    The message names the step, and where the batch was saved.
    """
