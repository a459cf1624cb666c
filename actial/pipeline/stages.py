"""The stages of a run: trained or resumed, and saved as plain Hugging Face model folders."""

from __future__ import annotations

import gc
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lightning
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from transformers.utils.logging import disable_progress_bar

from actial.config import Accelerator, StageName, TrainConfig
from actial.config.exit_codes import STOPPED, Exit
from actial.core.process import is_main_process
from actial.core.sealed_files import changed_file
from actial.inference.open_sampler import open_sampler
from actial.inference.openai_retries import silence_request_logs
from actial.modeling.adapter_folder import FOLDER
from actial.modeling.prompt_renderer import PromptRenderer
from actial.modeling.saved_settings import saved_file
from actial.pipeline.callbacks import (
    Evaluator,
    FirstBatch,
    SampleTable,
    SharedFolderCheck,
    StepRecorder,
)
from actial.pipeline.fidelity_report import all_deviations
from actial.pipeline.jobs import Job, make_job, open_mixture
from actial.pipeline.preflight import chains_of_thought, data_identity
from actial.pipeline.rollout_log import RolloutLog
from actial.pipeline.score_models import accuracies, tasks_of
from actial.pipeline.stage_cache import reuse_cached_stage, stage_key
from actial.runs.provenance import software_versions
from actial.runs.run_dir import Run
from actial.runs.stop_request import stop_requested
from actial.runs.tracking import Tracker
from actial.training.checkpoint import CheckpointCallback, resume
from actial.training.distributed import cluster_environment, lightning_strategy
from actial.training.train_module import StepModule


def prepare(config: TrainConfig, run: Run) -> None:
    """Set up the process and record what the run is made from.

    Raises UserError for data of a later stage now, before the first one trains.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    silence_request_logs()
    # The frozen reference is in eval mode on purpose.
    for message in (
        "`isinstance.treespec, LeafSpec.` is deprecated",
        "Found .* module.s. in eval",
    ):
        warnings.filterwarnings("ignore", message=message, module="lightning")
    # Streams divide themselves among the workers (data/stream.py).
    warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")
    disable_progress_bar()  # transformers shows one for every weight file
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    if config.trainer.accelerator is Accelerator.cpu or not torch.cuda.is_available():
        # Threads would add up the gradient of an indexed tensor in any order.
        torch.use_deterministic_algorithms(True)
        # Filling uninitialized memory takes time, and nothing here reads such memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    prompts = PromptRenderer.load(config.model, config.prompt).fingerprint
    identity = {"seed": config.seed, "prompts": prompts, "data": data_identity(config)}
    run.add_provenance({**software_versions(), **identity})
    if chains := chains_of_thought(config):
        run.add_provenance({"chains_of_thought": chains})
        listed = "; ".join(f"{name}: {writer}" for name, writer in chains.items())
        print(f"chains of thought ({config.cold_start.ratio:.0%} of the draws): {listed}")
    if config.fidelity:
        differing = list(all_deviations(config))
        run.add_provenance({"fidelity": {"named": config.fidelity, "deviations": differing}})
        print(f"fidelity={config.fidelity}: {len(differing)} deviations from the paper")
        print("".join(f"  {line}\n" for line in differing), end="")
    for stage in config.stages[1:]:
        open_mixture(config, stage)


def train_stage(
    stage: StageName, config: TrainConfig, source: str, run: Run, tracker: Tracker
) -> str:
    """Train one stage from the model folder `source` and return the folder of its own model.

    A stopped stage is resumed, a finished one (its own or a cached one) is not
    trained again. Raises Exit(143), with the state saved, after SIGTERM or
    Ctrl-C.
    """
    model_folder = run.stage_folder(stage.name) / "model"
    if model_folder.exists() and not _set_aside_damaged(model_folder):
        settings = getattr(config, stage.name)
        run.metrics.check_complete(stage.name, settings.steps, settings.log_every)
        tracker.replay(run, stage.name)
        return str(model_folder)
    key = stage_key(stage, config, source)
    if reuse_cached_stage(stage, key, config, run, tracker):
        return str(model_folder)
    torch.manual_seed(config.seed)
    job = make_job(stage, config, source, run)
    module = job.module
    _fit(stage, job, config, run, tracker)
    if module.completed_steps < module.stage.steps:
        print(
            f"stopped at step {module.completed_steps} of {stage.name}, all saved: "
            "run the same command again to go on."
        )
        raise Exit(STOPPED)
    outcome = {"steps": module.completed_steps, "last_metrics": module.metrics, "key": key}
    run.add_provenance({stage.name: outcome})
    if config.model.lora.enabled:
        # before the merged model, whose folder marks the stage as done
        module.policy.save_adapter(run.stage_folder(stage.name) / FOLDER, saved_file(config))
    module.policy.save_pretrained(model_folder, saved_file(config))
    # Trainer, module and optimizer refer to each other: only a collection frees their memory.
    del job, module
    gc.collect()
    return str(model_folder)


def _set_aside_damaged(model_folder: Path) -> bool:
    """Rename the folder of a finished stage whose files have changed; return whether it did.

    The stage then writes it again, and the adapter beside it, from its last checkpoint.
    """
    changed = changed_file(model_folder) or changed_file(model_folder.with_name(FOLDER))
    if changed is None:
        return False
    if is_main_process():
        target = model_folder.with_name(f"damaged-{model_folder.name}")
        if target.exists():
            shutil.rmtree(target)
        model_folder.rename(target)
        print(
            f"model {model_folder} is damaged: {changed} differs from its checksum. It is set "
            f"aside as {target.name}, and the stage goes on from its last checkpoint.",
            flush=True,
        )
    return True


def _fit(stage: StageName, job: Job, config: TrainConfig, run: Run, tracker: Tracker) -> None:
    """Train the job from its newest checkpoint until its last step or a stop signal."""
    module, fingerprint = job.module, job.renderer.fingerprint
    checkpoints = run.folder / "checkpoints" / stage.name
    first_step = resume(checkpoints, module, fingerprint)
    draws = module.stage.steps * module.stage.batch_size
    run.add_provenance({f"{stage.name}_mix": job.mixture.schedule(draws)})
    if is_main_process():
        run.metrics.rewind(stage.name, first_step)
        _check_log(run, job.module, stage.name, first_step)
        run.timings.rewind(stage.name, first_step)
        tracker.replay(run, stage.name)
    callbacks = _callbacks(stage, job, config, run, tracker)
    loader = job.loader(first_step, module.stage.steps)
    module.train()  # the policy is loaded in evaluation mode
    # After a signal the checkpoint is saved and Lightning leaves by SIGTERMException.
    with stop_requested() as stop, suppress(SIGTERMException), _interrupts():
        # The checkpoint comes last, so that every step in it has been logged.
        save_every = module.stage.save_every
        callbacks.append(CheckpointCallback(checkpoints, save_every, fingerprint, stop))
        make_trainer(config, run, callbacks).fit(module, loader)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Let a second Ctrl-C leave as KeyboardInterrupt; Lightning makes sys.exit(1) of it."""
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def _check_log(run: Run, module: StepModule, stage: str, first_step: int) -> None:
    """Raise UserError when metrics.jsonl lacks steps that the checkpoint has behind it."""
    last_logged = first_step - first_step % module.stage.log_every
    if first_step == module.stage.steps:
        last_logged = first_step
    run.metrics.check_complete(stage, last_logged, module.stage.log_every)


def _callbacks(
    stage: StageName, job: Job, config: TrainConfig, run: Run, tracker: Tracker
) -> list[lightning.Callback]:
    """Return what records a stage while it trains."""
    settings, tokenizer = job.module.stage, job.renderer.tokenizer
    first_batch = run.stage_folder(stage.name) / "first_batch.txt"
    callbacks: list[lightning.Callback] = [
        SharedFolderCheck(run),
        FirstBatch(first_batch, tokenizer.decode, job.renderer.image_token),
        StepRecorder(run, stage.name, tracker),
    ]
    if stage is StageName.grpo:
        rollouts = run.folder / "rollouts.parquet"
        callbacks.append(SampleTable(tracker, stage.name))
        callbacks.append(RolloutLog(rollouts, stage.name, settings.save_every))
    if settings.eval_every:
        sampler = open_sampler(config.sampler, job.module.policy, job.renderer)
        tasks = tasks_of(config, job.renderer.limits)

        def score() -> dict[str, float]:
            return accuracies(sampler, job.renderer, tasks, config)

        callbacks.append(Evaluator(run, stage.name, tracker, score))
    return callbacks


def make_trainer(
    config: TrainConfig, run: Run, callbacks: list[lightning.Callback]
) -> lightning.Trainer:
    """Return a Trainer that passes once over its loader and writes nothing of its own."""
    return lightning.Trainer(
        accelerator=config.trainer.accelerator.value,
        devices=config.trainer.devices,
        num_nodes=config.trainer.nodes,
        strategy=lightning_strategy(config.trainer),
        plugins=cluster_environment(config.trainer),
        max_epochs=1,
        callbacks=callbacks,
        default_root_dir=run.folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
