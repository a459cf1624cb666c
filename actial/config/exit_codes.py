"""How a command ends: an exit code for each way to fail, and one sentence on stderr.

0 done; 1 the user's input is wrong; 2 a fault of actial, its traceback kept in the run folder;
130 interrupted by Ctrl-C; 143 training stopped by a signal with everything saved.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from actial.config.error_messages import explain
from actial.core.errors import UserError

ERROR = "error.txt"  # in the folder of a run: why it ended
USER_ERROR, OUR_FAULT = 1, 2
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER = (
    *FORBIDDEN,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
)
INTERRUPTED, STOPPED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as shells report them


class Exit(SystemExit):
    """The end of the process with an exit code of this module; its message is already printed."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(code)
        self.message = message


class JobFailed(Exception):
    """A job of a sweep ended with code 1 or 2; Hydra runs the other jobs before it raises this."""


@contextmanager
def errors_reported(folder: list[Path]) -> Iterator[None]:
    """Turn exceptions into the exit codes of this module.

    The block may append to `folder` the run folder in which a traceback belongs.
    """
    try:
        yield
    except Exit:
        raise
    except SystemExit as parser_exit:  # argparse has printed its message and raises code 2
        raise SystemExit(USER_ERROR if parser_exit.code else 0) from None
    except (UserError, JobFailed) as error:
        _end(sentence(error), USER_ERROR)
    except (HydraException, OmegaConfBaseException) as error:
        _end(explain(error), USER_ERROR)
    except KeyboardInterrupt:
        _end("interrupted: run the same command again to resume.", INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe has ended (`| head`): send what Python still flushes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # the outermost place: whatever is left becomes an exit code
        if disk_full(error):
            name = getattr(error, "filename", None)
            where = f" ({name})" if name else ""
            message = (
                f"the disk is full{where}: free some space and run the same command again."
            )
            _end(message, USER_ERROR)
        if isinstance(error, OSError) and (message := path_refused(error, folder)):
            _end(message, USER_ERROR)
        _end(_keep_traceback(error, folder), OUR_FAULT)


def sentence(error: Exception) -> str:
    """Return the message of a user's error.

    torch raises the errors of data workers anew, with their whole traceback as the message.
    """
    _, raised_in_worker, message = str(error).rpartition(f"{UserError.__module__}.UserError: ")
    return message.strip() if raised_in_worker else str(error)


def disk_full(error: BaseException | None) -> bool:
    """Return whether an exception, or one of its causes, says that the disk is full.

    Python raises an errno; extensions written in Rust only have the text.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def path_refused(error: OSError, folder: list[Path]) -> str:
    """Return the sentence for a file or folder that the system does not let us use, else "".

    That is the user's to mend for the output folder, whatever the error, and for any file that
    permissions forbid.
    """
    if not isinstance(error.filename, (str, os.PathLike)):
        return ""
    path, cause = Path(error.filename), error.strerror
    for output in folder:
        if error.errno in NO_FOLDER and (path == output or path in output.parents):
            return f"{output} cannot be made a folder ({cause}): give another output folder."
        if error.errno in NO_FOLDER and output in path.parents and not os.path.isdir(output):
            return f"{output} is not a folder ({cause}): give another output folder."
        if error.errno in FORBIDDEN and output in path.parents:
            return f"{output} cannot be written ({cause}): give another output folder."
    if error.errno in FORBIDDEN:
        return (
            f"{path} cannot be used ({cause}): change its permissions, or give another path."
        )
    return ""


def job_failed(ended: Exit, folder: list[Path]) -> JobFailed:
    """Return the error that stands for a job of a sweep; keep a user's error in its folder.

    A fault's traceback already lies there.
    """
    if ended.code == USER_ERROR and folder:
        # A folder that cannot be written is what the error says; it is printed in any case.
        with suppress(OSError):
            folder[0].mkdir(parents=True, exist_ok=True)
            (folder[0] / ERROR).write_text(f"error: {ended.message}\n")
    where = f"{folder[0] / ERROR}" if folder else "the line above"
    return JobFailed(
        f"a job of the sweep failed, see {where}; the other jobs have run: "
        "the same command again runs only what is missing"
    )


def _end(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise Exit(code, message)


def _keep_traceback(error: Exception, folder: list[Path]) -> str:
    """Write the traceback into the run folder, or print it; return the sentence that says so."""
    text = "".join(traceback.format_exception(error))
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    if not folder or not folder[0].is_dir():
        print(text, file=sys.stderr)
        return f"this is a fault of actial: {summary}; the traceback stands above."
    path = folder[0] / ERROR
    path.write_text(text)
    return f"this is a fault of actial: {summary}; the traceback is in {path}."
