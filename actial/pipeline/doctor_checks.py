"""The checks of actial.doctor: each looks at one thing a run needs, and says how to mend it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

from actial.config import (
    Accelerator,
    Attention,
    Reference,
    SamplerKind,
    StageName,
    Strategy,
    TrainConfig,
)
from actial.core.atomic_io import file_sha256
from actial.core.errors import UserError
from actial.data.shards import INDEX, read_manifest
from actial.data.urls import is_url
from actial.inference.vllm_version import check_vllm
from actial.modeling.adapter_folder import base_of
from actial.pipeline.findings import Finding, Lines, Status
from actial.pipeline.preflight import (
    chains_of_thought,
    check_data_sets,
    check_model_path,
    used_sets,
)
from actial.runs.run_dir import resumes_run

if TYPE_CHECKING:
    import numpy as np

    from actial.modeling.cost_model import Load, Memory
    from actial.modeling.policy import Policy
    from actial.modeling.prefix_packing import PrefixGroup

GIB = 2**30
MEASURED_GROUPS = 32  # of a stage's first batch
WARN_CPU = 0.7  # of the device's memory
WARN_GPU = 0.95


def diagnose(config: TrainConfig) -> list[Finding]:
    """All findings about a run with this config.

    A check that ends in UserError is a failure with its sentence. A check is left out when one that
    it needs (`NEEDS`) has failed.
    """
    findings: list[Finding] = []
    failed: set[str] = set()
    for name, check in CHECKS.items():
        if failed & NEEDS.get(name, set()):
            continue
        try:
            for status, text in check(config):
                findings.append(Finding(name, status, text))
        except UserError as error:
            findings.append(Finding(name, Status.FAIL, str(error)))
        failed = {finding.check for finding in findings if finding.status is Status.FAIL}
    return findings


def check_run_folder(config: TrainConfig) -> Lines:
    folder = Path(config.run_dir)
    action = "resumes the run in" if resumes_run(config) else "starts a new run in"
    parents = (folder, *folder.resolve().parents)
    existing = next(parent for parent in parents if parent.exists())
    free = shutil.disk_usage(existing).free
    yield Status.PASS, f"{action} {folder}, {free / GIB:.0f} GiB free"


def check_data(config: TrainConfig) -> Lines:
    check_data_sets(config)
    for name, chains in chains_of_thought(config).items():
        yield Status.PASS, f"{name}: its chains of thought are {chains}"
    for name, source in used_sets(config).items():
        manifest, root = read_manifest(name, source), Path(source.root)
        sizes = [f"{records} {split}" for split, records in manifest["rows"].items()]
        if is_url(source.root):
            yield Status.PASS, f"{name}: {', '.join(sizes)}, at {source.root}"
            continue
        missing = [shard for shard in manifest["shards"] if not (root / shard).is_file()]
        if missing:
            yield (
                Status.FAIL,
                f"{name}: {len(missing)} shards of {root} are missing, such as {missing[0]}: "
                "build the set again.",
            )
        elif file_sha256(root / INDEX) != manifest["index_sha256"]:
            yield (
                Status.FAIL,
                f"{name}: {root / INDEX} is not the one its manifest names: build the set again.",
            )
        else:
            yield Status.PASS, f"{name}: {', '.join(sizes)}"


def check_schedule(config: TrainConfig) -> Lines:
    from actial.pipeline.jobs import resolve_steps

    config = resolve_steps(config)
    sizes = {}
    for name, source in used_sets(config).items():
        sizes[name] = read_manifest(name, source)["rows"].get("train", 0)
    for stage in config.stages:
        settings = getattr(config, stage.name)
        draws, total = settings.steps * settings.batch_size, sum(settings.mix.weights.values())
        passes = []
        for name, weight in settings.mix.weights.items():
            if weight and sizes.get(name):
                passes.append(f"{name} {draws * weight / total / sizes[name]:.2g} times")
        drawn = ", ".join(passes) or "exercises without files"
        yield (
            Status.PASS,
            f"{stage.name}: {settings.steps} steps of {settings.batch_size} draw {drawn}",
        )
        warmup = settings.optim.warmup_steps
        if warmup >= settings.steps:
            yield (
                Status.WARN,
                f"{stage.name}.optim.warmup_steps={warmup} is never over: "
                "take fewer, or more steps.",
            )


def check_fidelity(config: TrainConfig) -> Lines:
    """List what deviates from the paper, where the run says that it follows it."""
    if config.fidelity != "paper":
        yield (
            Status.PASS,
            f"fidelity={config.fidelity or 'none'} promises no value of the paper",
        )
        return
    from actial.pipeline.fidelity_report import all_deviations

    differing = list(all_deviations(config))
    for line in differing:
        yield Status.WARN, f"deviates from the paper: {line}"
    if not differing:
        yield Status.PASS, "nothing deviates from the paper (docs/fidelity.md)"


def check_model(config: TrainConfig) -> Lines:
    from actial.modeling.base_model import check_weights
    from actial.modeling.policy import Policy
    from actial.modeling.prompt_renderer import PromptRenderer
    from actial.modeling.trainable_modules import MODULE_GROUPS

    check_model_path(config)
    renderer = PromptRenderer.load(config.model, config.prompt)
    base, _ = base_of(config.model.path)
    if Path(base).is_dir():
        check_weights(base)
    policy = Policy.from_hub_config(config.model)
    if renderer.image_token_id != policy.spec.image_token_id:
        yield (
            Status.FAIL,
            f"the tokenizer's image placeholder is {renderer.image_token_id}, the model's "
            f"{policy.spec.image_token_id}: the files belong to different models.",
        )
    if renderer.limits.multiple != policy.spec.factor:
        yield (
            Status.FAIL,
            f"the processor cuts into {renderer.limits.multiple} pixels, the model into "
            f"{policy.spec.factor}: the files belong to different models.",
        )
    sizes = []
    for group in MODULE_GROUPS:
        parameters = sum(p.numel() for p in policy.module_group_parameters(group))
        sizes.append(f"{group} {parameters / 1e6:.2f} M")
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    family = policy.hf_config.model_type
    yield Status.PASS, f"{family} with {', '.join(sizes)}; {trained / 1e6:.2f} M train"


def check_first_batch(config: TrainConfig) -> Lines:
    """Render what each stage trains on first, and measure it against the token budget."""
    for stage in config.stages:
        groups, _ = first_groups(config, stage)
        longest = max(group.num_tokens for group in groups)
        if stage is StageName.sft:
            supervised = 0
            for group in groups:
                supervised += sum(
                    sum(continuation.loss_mask) for continuation in group.continuations
                )
            text = (
                f"{len(groups)} prefix groups of up to {longest} tokens, "
                f"{supervised / len(groups):.0f} supervised each"
            )
        else:
            prompt = max(len(group.input_ids) for group in groups)
            text = (
                f"prompts of up to {prompt} tokens, groups of up to {longest} with "
                f"{config.grpo.group_size} completions"
            )
        yield Status.PASS, f"{stage.name}: {text}"
        if longest > config.model.micro_batch_tokens:
            yield (
                Status.WARN,
                f"{stage.name}: {longest} tokens exceed "
                f"model.micro_batch_tokens={config.model.micro_batch_tokens}: "
                "memory may not suffice.",
            )


def first_groups(
    config: TrainConfig, stage: StageName
) -> tuple[list[PrefixGroup], list[np.ndarray]]:
    """The first prefix groups of a stage with their images, 32 at most.

    GRPO's completions are taken as long as they may get.
    """
    from actial.modeling.prefix_packing import Continuation, as_prefix_groups
    from actial.modeling.prompt_renderer import PromptRenderer
    from actial.pipeline.jobs import open_mixture, supervised_batch

    renderer = PromptRenderer.load(config.model, config.prompt)
    mixture = open_mixture(config, stage)
    examples = mixture.head(min(getattr(config, stage.name).batch_size, MEASURED_GROUPS))
    if stage is StageName.sft:
        batch = supervised_batch(examples, renderer)
        return batch.prefix_groups, batch.images
    prompts = [renderer.prompt(example, example.questions[0]) for example in examples]
    groups, images = as_prefix_groups(prompts)
    length = config.grpo.max_tokens
    longest = Continuation([0] * length, [True] * length)
    for group in groups:
        group.continuations = [longest] * config.grpo.group_size
    return groups, images


def check_cost(config: TrainConfig) -> Lines:
    """Memory of a rank in each phase against its device's, and the operations of a step."""
    for stage in config.stages:
        yield stage_cost(config, stage)


def stage_cost(config: TrainConfig, stage: StageName) -> tuple[Status, str]:
    """The line of one stage: FAIL names settings that fit, where there are some."""
    from actial.modeling.cost_model import load_of, step_flops
    from actial.pipeline.memory_plan import GIB, alternatives, on_gpu, plan_memory

    available = device_memory(config) / GIB
    policy = _meta_policy(config, stage)
    groups, images = first_groups(config, stage)
    load = load_of(groups, images, policy)
    compares = stage is StageName.grpo and config.grpo.kl.beta > 0
    rescores = stage is StageName.grpo and config.grpo.num_mini_batches > 1
    ranks = config.trainer.devices * config.trainer.nodes
    steps_measured = len(groups) * ranks / getattr(config, stage.name).batch_size
    parts = step_flops(policy, load, reference=compares, old_logprobs=rescores).values()
    flops = sum(part.total for part in parts) / steps_measured
    memory = _trainer_memory(config, stage, policy, load)
    plan = plan_memory(config, stage, memory, available)
    text = (
        f"{stage.name}: about {plan.peak:.2f} GiB a rank of {available:.0f} ({plan.describe()}; "
        f"trainer {memory.state / GIB:.2f} state, {memory.activations / GIB:.2f} activations, "
        f"{memory.head / GIB:.2f} logits, {(memory.gathered + memory.reduced) / GIB:.2f} "
        f"unsharded), {flops / 1e12:.3g} TFLOP a step"
    )
    if plan.fits:
        # where the estimate is all there is: other programs use a computer's memory too
        tight = plan.peak > (WARN_GPU if on_gpu(config) else WARN_CPU) * available
        if not tight:
            return Status.PASS, text
        return Status.WARN, f"{text}: lower model.micro_batch_tokens if memory runs out."
    for settings, smaller in alternatives(config, load):
        policy = _meta_policy(smaller, stage)
        memory = _trainer_memory(smaller, stage, policy, load)
        plan = plan_memory(smaller, stage, memory, available)
        if plan.fits:
            return Status.FAIL, f"{text}: set {settings} ({plan.peak:.2f} GiB)."
    return (
        Status.FAIL,
        f"{text}: train an adapter (model.lora.enabled=true), fewer module groups or a smaller "
        "model, or shard it (trainer.strategy=fsdp2).",
    )


def _meta_policy(config: TrainConfig, stage: StageName) -> Policy:
    from actial.modeling.policy import Policy
    from actial.pipeline.jobs import stage_model

    return Policy.from_hub_config(stage_model(config, stage, config.model.path))


def _trainer_memory(
    config: TrainConfig, stage: StageName, policy: Policy, load: Load
) -> Memory:
    from actial.modeling.cost_model import step_memory

    compares = stage is StageName.grpo and config.grpo.kl.beta > 0
    copies = compares and config.grpo.kl.reference is Reference.frozen_copy
    ranks = config.trainer.devices * config.trainer.nodes
    shards = ranks if config.trainer.strategy is Strategy.fsdp2 else 1
    return step_memory(policy, load, frozen_copy=copies, shards=shards)


def device_memory(config: TrainConfig) -> int:
    """Bytes of one device, of `trainer.memory_gib` where there is none, or of this
    machine's RAM.
    """
    import torch

    if config.trainer.accelerator is not Accelerator.cpu:
        if torch.cuda.is_available():
            return int(torch.cuda.get_device_properties(0).total_memory)
        if config.trainer.memory_gib is not None:
            return int(config.trainer.memory_gib * GIB)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_device(config: TrainConfig) -> Lines:
    import torch

    devices, wanted = torch.cuda.device_count(), config.trainer.devices
    if config.trainer.accelerator is Accelerator.cuda and devices < wanted:
        yield (
            Status.FAIL,
            f"trainer.devices={wanted} but torch sees {devices} CUDA devices: set trainer=cpu or "
            "fewer devices.",
        )
    elif config.trainer.accelerator is Accelerator.cpu or not devices:
        yield (
            Status.PASS,
            f"CPU with {config.trainer.threads or torch.get_num_threads()} threads",
        )
    else:
        yield Status.PASS, f"{wanted} of {devices} CUDA devices"


def check_sampler(config: TrainConfig) -> Lines:
    if StageName.grpo not in config.stages:
        return
    sampler = config.sampler
    check_vllm(sampler)
    if config.trainer.accelerator is Accelerator.cuda:
        if config.model.attention is Attention.sdpa:
            yield (
                Status.WARN,
                "model.attention=sdpa holds masks of completions x prompt tokens on a GPU: set "
                "model.attention=flex.",
            )
        if (
            sampler.kind is SamplerKind.vllm_server
            and sampler.start
            and sampler.devices is None
        ):
            yield (
                Status.FAIL,
                "sampler.devices=null: the server would take memory of the trainer's GPU 0. Set "
                "sampler.devices=7 with trainer.devices=7.",
            )
    if sampler.kind is not SamplerKind.vllm_server:
        yield Status.PASS, f"{sampler.kind.value} in this process"
    elif sampler.start:
        yield Status.PASS, f"the run will start its own server at {sampler.url}"
    else:
        yield from _check_server(sampler.url or "")


def _check_server(url: str) -> Lines:
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=5) as answer:
            yield Status.PASS, f"{url} answers with {answer.status}"
    except (URLError, TimeoutError) as error:
        yield (
            Status.FAIL,
            f"sampler.url={url} does not answer ({error}): start the server, or set sampler=hf.",
        )


CHECKS: dict[str, Callable[[TrainConfig], Lines]] = {
    "run folder": check_run_folder,
    "data": check_data,
    "schedule": check_schedule,
    "fidelity": check_fidelity,
    "model": check_model,
    "first batch": check_first_batch,
    "device": check_device,
    "cost": check_cost,
    "sampler": check_sampler,
}
NEEDS = {
    "schedule": {"data"},
    "fidelity": {"data"},
    "first batch": {"data", "model"},
    "cost": {"data", "model", "first batch"},
}
