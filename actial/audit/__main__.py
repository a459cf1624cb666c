"""Check whether a benchmark or a training set leaks images, scenes, questions or answers."""

from __future__ import annotations

from pathlib import Path

from actial.config import AuditConfig
from actial.config.hydra_app import hydra_command


def audit(config: AuditConfig) -> None:
    """Check the sets, print the findings and write certificate.json and audit.html.

    Raises:
        UserError: a set or a list of identifiers is missing, or an image cannot be read.
    """
    # scipy and the loaders are imported only once the config is known to be right.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from actial.evaluation.audit.certificate import audit_sets
    from actial.evaluation.audit.items import open_audit_sets, read_identifiers
    from actial.reporting.audit_report import certificate_row, write_certificate

    identifiers = read_identifiers(config.identifiers)
    sets = open_audit_sets(config.sets)
    certificate = audit_sets(sets, identifiers, config.workers)
    table = Table()
    for head in ("check", "sets", "verdict", "finding"):
        table.add_column(head, overflow="fold")
    for check in certificate.checks:
        table.add_row(*map(Text, certificate_row(check)))  # [x] in a name is no markup
    Console().print(table)
    write_certificate(certificate, Path(config.out))
    verdict = "clean" if certificate.clean else "leaks"
    print(f"finished: {verdict}, {Path(config.out) / 'audit.html'}")


@hydra_command("audit", folder_key="out", positional="sets[]")
def main(config: AuditConfig) -> None:
    """python -m actial.audit SET [SET ...] out=DIR [identifiers=FILE] [workers=2]

    SET: benchmark:NAME:FOLDER, FOLDER:SPLIT of a built set, or a folder of images. One set is
    checked for what its text gives away; two or more also for shared images, scenes and questions.
    """
    audit(config)


if __name__ == "__main__":
    main()
