"""The two ways a command of this package ends badly."""


class UserError(Exception):
    """The user's input is wrong: one sentence naming the thing, the value and the remedy; exit code 1, no traceback."""


class NonFiniteError(RuntimeError):
    """A loss or gradient became NaN or infinite; the message names the step and where the batch was saved."""
