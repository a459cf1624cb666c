"""All weights of a policy or a folder in an engine's type, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from actial.config import Precision
from actial.inference.weight_sync import (
    engine_dtype,
    folder_weights,
    in_precision,
    named_shapes,
    named_weights,
    weights_version,
)
from actial.modeling.dtensor import is_sharded
from actial.modeling.policy import Policy

Description = tuple[str, torch.dtype, tuple[int, ...]]


class WeightStream(Protocol):
    """Named tensors that can be iterated again, and described beforehand."""

    @property
    def collective(self) -> bool:
        """Whether iterating takes every rank."""

    def version(self) -> Hashable:
        """Changes whenever the weights change."""

    def metadata(self) -> list[Description]:
        """(name, type, shape) of what iteration yields, in its order; nothing is gathered."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...


class PolicyStream:
    """The weights of a policy, adapters merged."""

    def __init__(self, policy: Policy, precision: Precision) -> None:
        self.policy = policy
        self.precision = precision

    @property
    def collective(self) -> bool:
        return is_sharded(self.policy)

    def version(self) -> Hashable:
        return weights_version(self.policy)

    def metadata(self) -> list[Description]:
        dtype = engine_dtype(self.precision)
        return [(name, dtype, shape) for name, shape in named_shapes(self.policy)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return in_precision(named_weights(self.policy), self.precision)


class FolderStream:
    """The weights of a model folder or hub id."""

    collective = False

    def __init__(self, folder: str, revision: str | None, precision: Precision) -> None:
        self.folder = folder
        self.revision = revision
        self.precision = precision

    def version(self) -> Hashable:
        return self.folder, self.revision

    def metadata(self) -> list[Description]:
        dtype = engine_dtype(self.precision)
        weights = folder_weights(self.folder, self.revision)
        return [(name, dtype, tuple(tensor.shape)) for name, tensor in weights]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        weights = folder_weights(self.folder, self.revision)
        return in_precision(weights, self.precision)
