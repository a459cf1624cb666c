"""python -m actial.doctor +experiment=NAME: checks that a run would work, without training."""

from __future__ import annotations

from actial.config import TrainConfig
from actial.config.exit_codes import USER_ERROR, Exit
from actial.config.hydra_app import hydra_command


@hydra_command("train", folder_key="run_dir", plus=("experiment",))
def main(config: TrainConfig) -> None:
    """python -m actial.doctor +experiment=NAME [the same settings as actial.train]

    Checks that the run would work, without training: prints pass, warn or fail for each check,
    and exits 1 on a failure.
    """
    from actial.pipeline.doctor_checks import diagnose
    from actial.pipeline.findings import Status, table

    findings = diagnose(config)
    print(table(findings))
    if any(finding.status is Status.FAIL for finding in findings):
        raise Exit(USER_ERROR)


if __name__ == "__main__":
    main()
