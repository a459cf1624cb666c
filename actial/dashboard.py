"""python -m actial.dashboard entity=NAME: save the wandb workspace of a project's runs.

Needs the extra `sweeps` and a wandb account. Runs that were logged offline are uploaded first, by
`wandb sync RUN_DIR/wandb/offline-run-*`.
"""

from __future__ import annotations

from actial.config import DashboardConfig
from actial.config.hydra_app import hydra_command
from actial.core.errors import UserError
from actial.reporting.wandb_workspace import workspace


@hydra_command("dashboard", folder_key=None)
def main(config: DashboardConfig) -> None:
    """python -m actial.dashboard entity=NAME [project=actial] [group=KEY]

    Saves the workspace to wandb: a section per stage, runs grouped by the setting KEY, such as
    cold_start.ratio.
    """
    unsaved = workspace(config)
    from wandb.errors import Error

    try:
        print(unsaved.save().url)
    except Error as error:
        raise UserError(
            f"entity={config.entity}: wandb did not save the workspace ({error}). "
            "run `wandb login`, then this command again."
        ) from error


if __name__ == "__main__":
    main()
