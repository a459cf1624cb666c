"""python -m actial.doctor +experiment=NAME: would this run work? A short table of checks with the remedy; nothing is trained or written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from actial.config import Accelerator, Reference, SamplerKind, StageName, Strategy, TrainConfig
from actial.config.exit_codes import USER_ERROR, Exit
from actial.config.hydra_app import hydra_command
from actial.core.errors import UserError
from actial.data.shards import read_manifest
from actial.inference.vllm_version import check_vllm
from actial.pipeline.preflight import check_data_sets, check_model_path, used_sets

if TYPE_CHECKING:
    import numpy as np

    from actial.modeling.prefix_packing import PrefixGroup

GIB = 2**30


class Status(Enum):
    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(slots=True)
class Finding:
    """One line of the table; a warning or failure says what to do."""

    check: str
    status: Status
    text: str


def diagnose(config: TrainConfig) -> list[Finding]:
    """All findings about a run with this config; a check that ends in UserError is a failure with its sentence.

    A check that needs what another has found missing is left out.
    """
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        failed = {finding.check for finding in findings if finding.status is Status.FAIL}
        if failed & NEEDS.get(name, set()):
            continue
        try:
            findings += [Finding(name, status, text) for status, text in check(config)]
        except UserError as error:
            findings.append(Finding(name, Status.FAIL, str(error)))
    return findings


Lines = Iterator[tuple[Status, str]]


def check_run_folder(config: TrainConfig) -> Lines:
    from actial.runs.run_dir import refuse_unfit

    folder = Path(config.run_dir)
    state = "goes on with the run in" if refuse_unfit(config) else "starts a new run in"
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    yield Status.PASS, f"{state} {folder}, {free / GIB:.0f} GiB free"


def check_data(config: TrainConfig) -> Lines:
    from actial.data.shards import INDEX, file_sha256
    from actial.data.urls import is_url

    check_data_sets(config)
    for name, source in used_sets(config).items():
        manifest, root = read_manifest(name, source), Path(source.root)
        remote = is_url(source.root)
        missing = [shard for shard in manifest["shards"] if not (root / shard).is_file()]
        if missing and not remote:
            yield (
                Status.FAIL,
                f"{name}: {len(missing)} shards of {root} are missing, such as {missing[0]}: build the set again.",
            )
        elif not remote and file_sha256(root / INDEX) != manifest["index_sha256"]:
            yield (
                Status.FAIL,
                f"{name}: {root / INDEX} is not the one its manifest names: build the set again.",
            )
        else:
            yield (
                Status.PASS,
                f"{name}: "
                + ", ".join(f"{rows} {split}" for split, rows in manifest["rows"].items()),
            )


def check_schedule(config: TrainConfig) -> Lines:
    sizes = {
        name: read_manifest(name, source)["rows"].get("train", 0)
        for name, source in used_sets(config).items()
    }
    for stage in config.stages:
        settings = getattr(config, stage.name)
        draws, total = settings.steps * settings.batch_size, sum(settings.mix.weights.values())
        passes = {
            name: draws * weight / total / sizes[name]
            for name, weight in settings.mix.weights.items()
            if weight and sizes.get(name)
        }
        shown = ", ".join(f"{name} {times:.2g} times" for name, times in passes.items())
        yield (
            Status.PASS,
            f"{stage.name}: {settings.steps} steps of {settings.batch_size} draw {shown or 'exercises without files'}",
        )
        if settings.optim.warmup_steps >= settings.steps:
            yield (
                Status.WARN,
                f"{stage.name}.optim.warmup_steps={settings.optim.warmup_steps} is never over: take fewer, or more steps.",
            )


def check_model(config: TrainConfig) -> Lines:
    from actial.modeling.policy import Policy
    from actial.modeling.prompt_renderer import PromptRenderer
    from actial.modeling.trainable_modules import MODULE_GROUPS

    check_model_path(config)
    renderer = PromptRenderer.load(config.model, config.prompt)
    policy = Policy.from_hub_config(config.model)
    if renderer.image_token_id != policy.spec.image_token_id:
        yield (
            Status.FAIL,
            f"the tokenizer's image placeholder is {renderer.image_token_id}, the model's {policy.spec.image_token_id}: other files.",
        )
    if renderer.limits.multiple != policy.spec.factor:
        yield (
            Status.FAIL,
            f"the processor cuts into {renderer.limits.multiple} pixels, the model into {policy.spec.factor}: other files.",
        )
    counts = {
        part: sum(p.numel() for p in policy.module_group_parameters(part)) for part in MODULE_GROUPS
    }
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    shown = ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in counts.items())
    yield Status.PASS, f"{policy.hf_config.model_type} with {shown}; {trained / 1e6:.2f} M train"


def check_first_batch(config: TrainConfig) -> Lines:
    """Render what each stage sees first, and measure it against the token budgets."""
    for stage in config.stages:
        prefix_groups, _ = first_trunks(config, stage)
        longest = max(prefix_group.num_tokens for prefix_group in prefix_groups)
        if stage is StageName.sft:
            scored = sum(
                sum(continuation.loss_mask)
                for prefix_group in prefix_groups
                for continuation in prefix_group.continuations
            )
            text = f"{len(prefix_groups)} trunks of up to {longest} tokens, {scored / len(prefix_groups):.0f} supervised each"
        else:
            prompt = max(len(prefix_group.input_ids) for prefix_group in prefix_groups)
            text = f"prompts of up to {prompt} tokens, groups of up to {longest} with {config.grpo.group_size} completions"
        yield Status.PASS, f"{stage.name}: {text}"
        if longest > config.model.micro_batch_tokens:
            yield (
                Status.WARN,
                f"{stage.name}: {longest} tokens exceed model.micro_batch_tokens={config.model.micro_batch_tokens}: memory may not do.",
            )


def first_trunks(
    config: TrainConfig, stage: StageName
) -> tuple[list[PrefixGroup], list[np.ndarray]]:
    """The first trunks of a stage with their images, 32 at most; GRPO's completions are taken as long as they may get."""
    from actial.modeling.prefix_packing import Continuation, as_prefix_groups
    from actial.modeling.prompt_renderer import PromptRenderer
    from actial.pipeline.stages import open_mixture, supervised_batch

    renderer = PromptRenderer.load(config.model, config.prompt)
    settings, supervised = getattr(config, stage.name), stage is StageName.sft
    mixture = open_mixture(config, stage)
    examples = mixture.head(min(settings.batch_size, 32))
    if supervised:
        batch = supervised_batch(examples, renderer)
        return batch.prefix_groups, batch.images
    prefix_groups, images = as_prefix_groups(
        [renderer.prompt(example, example.questions[0]) for example in examples]
    )
    for prefix_group in prefix_groups:
        prefix_group.continuations = [
            Continuation([0] * config.grpo.max_tokens, [True] * config.grpo.max_tokens)
        ] * config.grpo.group_size
    return prefix_groups, images


def check_cost(config: TrainConfig) -> Lines:
    """Memory of a rank at its peak against what its device has, and the operations of one optimiser step."""
    from actial.modeling.cost_model import load_of, step_flops, step_memory
    from actial.modeling.policy import Policy

    policy, there = Policy.from_hub_config(config.model), device_memory(config)
    ranks = config.trainer.devices * config.trainer.nodes
    shards = ranks if config.trainer.strategy is Strategy.fsdp2 else 1
    for stage in config.stages:
        prefix_groups, images = first_trunks(config, stage)
        load = load_of(prefix_groups, images, policy)
        compares = stage is StageName.grpo and config.grpo.kl.beta > 0
        copy = compares and config.grpo.kl.reference is Reference.frozen_copy
        memory = step_memory(policy, load, frozen_copy=copy, shards=shards)
        share = getattr(config, stage.name).batch_size / len(prefix_groups) / ranks
        flops = share * sum(
            part.total for part in step_flops(policy, load, reference=compares).values()
        )
        parts = f"{memory.state / GIB:.2f} state, {memory.activations / GIB:.2f} activations, {memory.head / GIB:.2f} logits"
        text = f"{stage.name}: about {memory.total / GIB:.2f} GiB a rank ({parts}) of {there / GIB:.0f}, {flops / 1e12:.3g} TFLOP a step"
        if memory.state > there:
            yield (
                Status.FAIL,
                f"{text}: train an adapter (model.lora.enabled=true), fewer parts, or a smaller model, or shard it (fsdp2).",
            )
        elif memory.total > 0.7 * there:
            yield (
                Status.WARN,
                f"{text}: lower model.micro_batch_tokens if it runs out, or set model.gradient_checkpointing=true.",
            )
        else:
            yield Status.PASS, text


def device_memory(config: TrainConfig) -> int:
    """Bytes of one device, or of this machine's RAM."""
    import torch

    if config.trainer.accelerator is not Accelerator.cpu and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_device(config: TrainConfig) -> Lines:
    import torch

    found = torch.cuda.device_count()
    if config.trainer.accelerator is Accelerator.cuda and found < config.trainer.devices:
        yield (
            Status.FAIL,
            f"trainer.devices={config.trainer.devices} but {found} CUDA devices are here: set trainer=cpu or fewer devices.",
        )
    elif config.trainer.accelerator is Accelerator.cpu or not found:
        yield Status.PASS, f"CPU with {config.trainer.threads or torch.get_num_threads()} threads"
    else:
        yield Status.PASS, f"{config.trainer.devices} of {found} CUDA devices"


def check_sampler(config: TrainConfig) -> Lines:
    if StageName.grpo not in config.stages:
        return
    check_vllm(config.sampler)
    if config.sampler.kind is not SamplerKind.vllm_server:
        yield Status.PASS, f"{config.sampler.kind.value} in this process"
    elif config.sampler.start:
        yield Status.PASS, f"the run will start its own server at {config.sampler.url}"
    else:
        yield from _check_server(config.sampler.url or "")


def _check_server(url: str) -> Lines:
    from urllib.error import URLError
    from urllib.request import urlopen

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
    "model": check_model,
    "first batch": check_first_batch,
    "device": check_device,
    "cost": check_cost,
    "sampler": check_sampler,
}
NEEDS = {
    "schedule": {"data"},
    "first batch": {"data", "model"},
    "cost": {"data", "model", "first batch"},
}


def table(findings: list[Finding]) -> str:
    """One line per finding, in columns."""
    width = max(len(finding.check) for finding in findings)
    return "\n".join(
        f"{finding.status.value}  {finding.check:{width}}  {finding.text}" for finding in findings
    )


@hydra_command("train", folder_key="run_dir", plus=("experiment",))
def main(config: TrainConfig) -> None:
    """python -m actial.doctor +experiment=NAME [the same settings as actial.train]

    Checks that the run would work, without training: prints pass, warn or fail for each check, and exits 1 on a failure.
    """
    findings = diagnose(config)
    print(table(findings))
    if any(finding.status is Status.FAIL for finding in findings):
        raise Exit(USER_ERROR)


if __name__ == "__main__":
    main()
