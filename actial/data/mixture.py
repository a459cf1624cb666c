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

    `epoch` of a set counts how often that set has been drawn through; sets of different size therefore repeat at their own pace.
    """

    def __init__(self, sets: dict[str, TaskSet], mix: MixConfig, seed: int) -> None:
        self.names = [name for name, weight in mix.weights.items() if weight > 0]
        missing = sorted(set(self.names) - set(sets))
        if missing:
            raise UserError(
                f"mix.weights names {', '.join(missing)}, but data.sets has only {', '.join(sorted(sets))}."
            )
        self.sets = sets
        self.mix = mix
        self.draw = mixture_draw([mix.weights[name] for name in self.names], seed)
        self.seed = seed

    def schedule(self, draws: int) -> dict[str, Any]:
        """What `draws` draws of this mixture mean: each set's share of them, its rows, how often it is gone through; and the epochs.

        The weights are shares of the draws, whatever the sizes of the sets. An epoch is `mix.epoch_draws` draws (epoch_rule=draws), or as
        many as it takes to draw the first set once (epoch_rule=first).
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
        source, count = self.draw(position)
        name = self.names[source]
        epoch, place = divmod(count, len(self.sets[name]))
        index = int(epoch_order(f"{self.seed}/{name}", epoch, len(self.sets[name]))[place])
        return self.sets[name].example(index, epoch)

    def head(self, count: int) -> list[Example]:
        """Return the first `count` examples."""
        return [self.example(position) for position in range(count)]
