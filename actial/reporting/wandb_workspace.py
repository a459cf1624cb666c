"""Return the wandb workspace of a project's runs: final scores, and one section per stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actial.config import DashboardConfig
from actial.core.errors import UserError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

SCORES = "Scores"
PANELS = {  # section -> (title, metrics as the trackers name them, what the axis says)
    "SFT": [
        ("loss", ["sft/loss"], "nats per token"),
        (
            "loss by question",
            [
                "sft/loss/ego_translation",
                "sft/loss/object_translation",
                "sft/loss/ego_rotation",
            ],
            "nats per token",
        ),
        ("gradient norm", ["sft/grad_norm"], ""),
    ],
    "GRPO": [
        (
            "reward and its terms",
            ["grpo/reward", "grpo/reward/format/mean", "grpo/reward/accuracy/mean"],
            "",
        ),
        (
            "accuracy, format, truncated",
            [
                "grpo/reward/accuracy/mean",
                "grpo/reward/format/mean",
                "grpo/completions/clipped_ratio",
            ],
            "share",
        ),
        ("KL to the reference", ["grpo/kl"], "nats per token"),
        ("response length", ["grpo/completions/mean_length"], "tokens"),
        ("entropy", ["grpo/entropy"], "nats per token"),
        (
            "gap between trainer and sampler",
            [
                "grpo/sampling/sampling_logp_difference/mean",
                "grpo/sampling/sampling_logp_difference/max",
            ],
            "nats",
        ),
    ],
    "Speed": [
        ("SFT", ["sft/tokens_per_second"], "tokens per second"),
        ("GRPO", ["grpo/tokens_per_second"], "tokens per second"),
    ],
}


def workspace(config: DashboardConfig) -> Workspace:
    """Return the workspace, not yet saved; runs are grouped by the setting `config.group` if given.

    Raises UserError where wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports import v2
    except ModuleNotFoundError as error:
        raise UserError(
            "the dashboard needs wandb-workspaces: pip install -e '.[sweeps]'."
        ) from error
    sections = [
        workspaces.Section(
            name=name,
            panels=[_panel(v2.LinePlot, *panel) for panel in panels],
            is_open=name != "Speed",
        )
        for name, panels in PANELS.items()
    ]
    sections.insert(
        0, workspaces.Section(name=SCORES, panels=score_panels(config), is_open=True)
    )
    grouped: list[Any] = [workspaces.Config(config.group)] if config.group else []
    runs = workspaces.RunsetSettings(groupby=grouped)
    return workspaces.Workspace(
        entity=config.entity,
        project=config.project,
        name=config.name,
        sections=sections,
        runset_settings=runs,
    )


def score_panels(config: DashboardConfig) -> list[Any]:
    """Return the panels of final scores: bars of each set, and settings against scores.

    Runs of a sweep are compared by final/SET/FIGURE, the scores of their last model.
    """
    from wandb_workspaces.reports import v2

    accuracies = [f"final/{name}/accuracy" for name in config.sets]
    panels: list[Any] = [
        v2.BarPlot(title=f"accuracy on {name}", metrics=[metric], groupby_rangefunc="minmax")
        for name, metric in zip(config.sets, accuracies, strict=True)
    ]
    panels.append(
        v2.BarPlot(
            title="format compliance",
            metrics=[f"final/{name}/format_compliance" for name in config.sets],
        )
    )
    axes: list[Any] = [v2.SummaryMetric(metric) for metric in accuracies]
    if config.group:
        axes.insert(0, v2.Config(config.group))
    columns = [v2.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]
    panels.append(v2.ParallelCoordinatesPlot(title="settings and scores", columns=columns))
    return panels


def _panel(plot: type, title: str, metrics: list[str], unit: str) -> Any:
    stage = metrics[0].partition("/")[0]
    return plot(
        title=title,
        x=f"{stage}/step",
        y=metrics,
        title_x="step",
        title_y=unit or None,
        groupby_rangefunc="minmax",
    )
