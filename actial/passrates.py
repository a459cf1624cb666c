"""Measure how often a model solves each training question of a set."""

from __future__ import annotations

from actial.config import PassRatesConfig
from actial.config.hydra_app import hydra_command


@hydra_command("passrates", folder_key="out")
def main(config: PassRatesConfig) -> None:
    """python -m actial.passrates set=NAME model=NAME out=DIR [samples=16] [key=value ...]

    Asks the model every training question of a set several times and counts the
    correct answers. Writes out/passrates.jsonl, to be named by
    data.sets.NAME.pass_rates in training; run the same command again to go on where
    it stopped.
    """
    # torch is imported only once the config is known to be right.
    from actial.evaluation.pass_rates import measure_pass_rates

    print(measure_pass_rates(config))


if __name__ == "__main__":
    main()
