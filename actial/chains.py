"""`python -m actial.chains pairs=DIR teacher=NAME url=URL out=DIR`."""

from __future__ import annotations

from collections.abc import Callable

from actial.config import ChainsConfig
from actial.config.hydra_app import hydra_command


def chains(config: ChainsConfig) -> None:
    """python -m actial.chains pairs=DIR teacher=NAME url=URL out=DIR [limit=1000] [key=value ...]

    A teacher behind any OpenAI-compatible server writes chains of thought for pairs of
    a built set; those that contradict the pair's geometry are rejected. Writes
    out/chains.jsonl, rejected.jsonl and ledger.json; run the same command again to
    resume.
    """
    from actial.teacher.collect import teach

    teach(config)


main: Callable[[], None] = hydra_command("chains", folder_key="out")(chains)

if __name__ == "__main__":
    main()
