"""Sequential byte streams from folders and URLs."""

from __future__ import annotations

import re
from typing import IO, cast

SCHEME = re.compile(r"pipe:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_url(root: str) -> bool:
    """Return whether `root` has a scheme (`https://...`, `s3://...`, `pipe:cat ...`)."""
    return SCHEME.match(root) is not None


def open_url(address: str) -> IO[bytes]:
    """Open a path or URL for reading from its beginning.

    webdataset opens the schemes it knows (`pipe:` runs a shell command; `http(s)://`
    uses curl); fsspec opens all others (`s3://`, `az://`, ... with their packages).
    Raises OSError, ValueError for a scheme that neither knows, or ImportError naming
    the package that a scheme needs.
    """
    if not is_url(address):
        return open(address, "rb")
    from webdataset.gopen import gopen, gopen_schemes

    scheme = address.partition(":")[0].lower()
    if scheme in gopen_schemes:
        return cast(IO[bytes], gopen(address, "rb"))
    import fsspec

    return cast(IO[bytes], fsspec.open(address, "rb").open())
