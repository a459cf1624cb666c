"""Several data sets drawn in fixed shares as one stream of examples."""

from __future__ import annotations

from typing import Any

from actial.config import EpochRule, MixConfig
from actial.core.errors import UserError
from actial.core.records import Example
from actial.data.datasets import TaskSet
from actial.data.sampling_order import epoch_order, mixture_draw


class Mixture:
    """The stage's stream of examples over several sets.

    `epoch` of a set counts how often that set has been drawn through; sets of different size
    therefore repeat at their own pace.
    """

    def __init__(self, sets: dict[str, TaskSet], mix: MixConfig, seed: int) -> None:
        self.names = [name for name, weight in mix.weights.items() if weight > 0]
        missing = sorted(set(self.names) - set(sets))
        if missing:
            raise UserError(
                f"mix.weights names {', '.join(missing)}, but data.sets has only "
                f"{', '.join(sorted(sets))}: add the set to data.sets or give it weight 0."
            )
        self.sets = sets
        self.mix = mix
        self.draw = mixture_draw([mix.weights[name] for name in self.names], seed)
        self.seed = seed

    def schedule(self, draws: int) -> dict[str, Any]:
        """Return what `draws` draws of this mixture mean.

        The weights are shares of the draws, whatever the sizes of the sets. An epoch is
        `mix.epoch_draws` draws (epoch_rule=draws), or as many as it takes to draw the first set
        once (epoch_rule=first).

        Returns:
            The epochs, and per set its share of the draws, its size ("rows"), and how often it is
            drawn through ("passes").
        """
        total = sum(self.mix.weights[name] for name in self.names)
        shares = {name: self.mix.weights[name] / total for name in self.names}
        first = self.names[0]
        by_first = round(len(self.sets[first]) / shares[first])
        epoch = by_first if self.mix.epoch_rule is EpochRule.first else self.mix.epoch_draws
        sets = {
            name: {
                "share": round(share, 6),
                "rows": len(self.sets[name]),
                "passes": round(draws * share / len(self.sets[name]), 4),
            }
            for name, share in shares.items()
        }
        return {
            "epoch_rule": self.mix.epoch_rule.value,
            "epoch_draws": epoch,
            "draws": draws,
            "epochs": round(draws / epoch, 4),
            "sets": sets,
        }

    def example(self, position: int) -> Example:
        """Return the example at a position of the stream."""
        source, count = self.draw(position)
        name = self.names[source]
        size = len(self.sets[name])
        epoch, rank = divmod(count, size)
        index = int(epoch_order(f"{self.seed}/{name}", epoch, size)[rank])
        return self.sets[name].example(index, epoch)

    def head(self, count: int) -> list[Example]:
        """Return the first `count` examples."""
        return [self.example(position) for position in range(count)]
