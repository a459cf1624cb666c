"""Sampling with an inference engine that gets new weights, and proves them, when they change.

An engine takes token ids with one placeholder per image, and the images. It must give
back the prompt as the trainer counts it, and log-probabilities of the distribution that
was sampled from.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Protocol

import torch.distributed as dist

from actial.config import ModelConfig
from actial.core.errors import UserError
from actial.core.records import Completion, Prompt, SamplingParams
from actial.inference.engine import Engine, EngineFault
from actial.inference.engine_requests import EngineRequests
from actial.inference.samplers import (
    Groups,
    finished,
    refuse_truncated_distribution,
)
from actial.inference.weight_probe import WeightProbe
from actial.inference.weight_streams import FolderStream, PolicyStream
from actial.inference.weight_sync import first_wrong_weight, folder_weights, weights_version
from actial.modeling.adapter_folder import is_adapter
from actial.modeling.adapters import save_adapter
from actial.modeling.dtensor import raise_together
from actial.modeling.policy import Policy


class WeightSource(Protocol):
    """Where an engine's weights come from."""

    @property
    def collective(self) -> bool:
        """Whether the ranks of a run must call `send` and `check` together."""

    def version(self) -> Hashable:
        """Changes whenever the weights change."""

    def send(self, engine: Engine) -> None:
        """Load the weights into an engine."""

    def check(self, engine: Engine, prompts: Sequence[Prompt]) -> dict[str, float]:
        """Figures of a check that the engine has the weights. Raises EngineFault."""


class PolicyWeights:
    """The weights of a policy in training, proven by a probe; all ranks call it together."""

    def __init__(self, policy: Policy, probe: WeightProbe) -> None:
        self.policy = policy
        self.probe = probe

    @property
    def collective(self) -> bool:
        # the group is made when training starts, after this object
        return dist.is_available() and dist.is_initialized()

    def version(self) -> Hashable:
        return weights_version(self.policy)

    def send(self, engine: Engine) -> None:
        """Load the policy's weights; an error of one rank is raised on all. A collective."""
        failure: Exception | None = None
        try:
            self.transfer(engine)
        except (UserError, EngineFault) as error:
            failure = error
        raise_together(failure)

    def transfer(self, engine: Engine) -> None:
        """Load the weights into this rank's engine. A collective."""
        engine.load(PolicyStream(self.policy, self.policy.config.precision))

    def check(self, engine: Engine, prompts: Sequence[Prompt]) -> dict[str, float]:
        self.probe.choose(prompts)
        return self.probe.check(engine)


class FolderWeights:
    """The weights of a model folder: no policy is loaded to score it, and no other rank asked.

    The engine's weights are compared with the files, where it shows them.
    """

    def __init__(self, model: ModelConfig, fingerprint: str) -> None:
        self.folder = model.path
        self.revision = model.revision
        self.precision = model.precision
        self.fingerprint = fingerprint

    @property
    def collective(self) -> bool:
        return False

    def version(self) -> Hashable:
        return self.fingerprint

    def send(self, engine: Engine) -> None:
        engine.load(FolderStream(self.folder, self.revision, self.precision))

    def check(self, engine: Engine, prompts: Sequence[Prompt]) -> dict[str, float]:
        weights = folder_weights(self.folder, self.revision)
        if wrong := first_wrong_weight(engine, weights):
            raise EngineFault(f"the engine does not hold {self.folder}: {wrong}")
        return {}


class AdapterUpdates(PolicyWeights):
    """The adapters of a policy in training, over the frozen weights the engine started from.

    A transfer takes megabytes in place of the whole model. The probe is that of full weights.
    """

    def __init__(self, policy: Policy, probe: WeightProbe) -> None:
        super().__init__(policy, probe)
        self.folder = tempfile.TemporaryDirectory(prefix="actial-adapter-")

    def transfer(self, engine: Engine) -> None:
        source = self.policy.config.path
        folder = Path(self.folder.name) / "adapter"
        save_adapter(
            self.policy.model,
            folder,
            source=source,
            first=Path(source) if is_adapter(source) else None,
            every_rank=True,
        )
        engine.use_adapter(folder)


class AdapterFolder:
    """The adapter of a PEFT folder over its base, which the engine itself has read."""

    def __init__(self, folder: str, fingerprint: str) -> None:
        self.folder = Path(folder)
        self.fingerprint = fingerprint

    @property
    def collective(self) -> bool:
        return False

    def version(self) -> Hashable:
        return self.fingerprint

    def send(self, engine: Engine) -> None:
        engine.use_adapter(self.folder)

    def check(self, engine: Engine, prompts: Sequence[Prompt]) -> dict[str, float]:
        """Nothing to compare with: no policy is loaded, and the engine shows no weights."""
        return {}


class EngineSampler:
    """Samples with the current weights of `source`.

    `figures` describe the last transfer (seconds, gap of the probe, how far it moved) and the
    last samples (seconds, tokens a second).
    """

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        source: WeightSource,
        requests: EngineRequests,
    ) -> None:
        self.open_engine = open_engine
        self.source = source
        self.requests = requests
        self.figures: dict[str, float] = {}

    @property
    def engine(self) -> Engine:
        """The engine, started with the first use."""
        return self.open_engine()

    def generate(self, prompts: list[Prompt], n: int, params: SamplingParams) -> Groups:
        """As `Sampler.generate`.

        Raises UserError for top_p or top_k, or a prompt beyond the engine's limits; EngineFault
        when engine and trainer do not compute the same.
        """
        return self.begin(prompts, n, params).result()

    def begin(self, prompts: list[Prompt], n: int, params: SamplingParams) -> Future[Groups]:
        """As `RolloutSampler.begin`; raises as `generate` does."""
        refuse_truncated_distribution(params)
        for prompt in prompts:
            if len(prompt.input_ids) + params.max_tokens > self.engine.max_model_len:
                raise UserError(
                    f"prompt {prompt.uid} has {len(prompt.input_ids)} tokens and may get "
                    f"{params.max_tokens} more, but "
                    f"sampler.engine.max_model_len={self.engine.max_model_len}: raise it, or lower "
                    "max_tokens."
                )
        # A rank without prompts still takes part in the transfer, which is a collective.
        if prompts or self.source.collective:
            self.sync(prompts)
        if not prompts:
            return finished([])
        engine = self.engine
        if engine.background is None:
            return finished(self._sample(engine, prompts, n, params))
        engine.pending = engine.background.submit(self._sample, engine, prompts, n, params)
        return engine.pending

    def _sample(
        self,
        engine: Engine,
        prompts: list[Prompt],
        n: int,
        params: SamplingParams,
    ) -> Groups:
        requests = []
        for prompt in prompts:
            sampling = self.requests.sampling(prompt, n, params)
            requests.append(self.requests.request(prompt, sampling))
        started = time.perf_counter()
        replies = engine.run(requests)
        seconds = time.perf_counter() - started
        engine.sleep()
        groups: list[list[Completion]] = []
        for prompt, reply in zip(prompts, replies, strict=True):
            groups.append(self.requests.completions(prompt, reply))
        tokens = sum(len(completion.token_ids) for group in groups for completion in group)
        self.figures |= {f"device_gib/{stage}": used for stage, used in engine.memory.items()}
        self.figures |= {
            "sampling_seconds": seconds,
            "sampled_tokens_per_second": tokens / seconds,
        }
        return groups

    def sync(self, prompts: Sequence[Prompt]) -> None:
        """Send the weights, and check them, if they changed since the engine's last transfer.

        Raises EngineFault, with the cause, when engine and trainer then differ. A collective for
        the weights of a policy.
        """
        engine = self.engine
        version = self.source.version()
        if engine.synced_to == version:
            return
        if engine.pending is not None:
            # No request may see two sets of weights; an error goes to who asked for the samples.
            wait([engine.pending])
        started = time.perf_counter()
        self.source.send(engine)
        seconds = time.perf_counter() - started
        self.figures |= self.source.check(engine, prompts)
        engine.synced_to = version
        self.figures["sync_seconds"] = seconds
        self.figures["weights_version"] = engine.weights_version
