"""The two ways a command of this package ends badly."""


class Rejected(Exception):
    """A capture that yields nothing; `reasons` are the names under which it is counted."""

    def __init__(self, *reasons: str, detail: str = "") -> None:
        super().__init__(", ".join(reasons) + (f": {detail}" if detail else ""))
        self.reasons = reasons


class UserError(Exception):
    """The user's input is wrong: one sentence naming the thing, the value and the remedy; exit code 1, no traceback."""


class NonFiniteError(RuntimeError):
    """A loss or gradient became NaN or infinite; the message names the step and where the batch was saved."""
