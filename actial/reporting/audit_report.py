"""Report an audit: certificate.json and a page to look at."""

from __future__ import annotations

from pathlib import Path

from actial.core.atomic_io import write_json, write_text
from actial.core.html_page import Section, render_sections
from actial.evaluation.audit.certificate import Certificate, Check


def write_certificate(certificate: Certificate, out: Path) -> None:
    """Write certificate.json, audit.html and leaked_images.tsv, every shared image, into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "certificate.json", certificate.to_json())
    lines = ["set\tother set\titem\tother item\tcorrelation\tmirrored"]
    for pair, matches in certificate.matches.items():
        for m in matches:
            cells = [*pair, m.uid, m.other_uid, f"{m.correlation:.4f}", str(m.mirrored)]
            lines.append("\t".join(" ".join(cell.split("\t")) for cell in cells))
    write_text(out / "leaked_images.tsv", "\n".join([*lines, ""]))
    sets = ", ".join(f"{name} ({n} items)" for name, n in certificate.sets.items())
    summary = Section(
        head=("check", "sets", "verdict", "finding"),
        rows=[certificate_row(check) for check in certificate.checks],
    )
    sections = [summary, *(_details(check) for check in certificate.checks if not check.clean)]
    title = "Audit: clean" if certificate.clean else "Audit: leaks"
    write_text(out / "audit.html", render_sections(title, sections, subtitle=sets))


def certificate_row(check: Check) -> tuple[str, str, str, str]:
    """Return a check as a row of text: name, sets, verdict, finding."""
    return (
        check.name,
        " and ".join(check.sets),
        "clean" if check.clean else "leak",
        check.finding,
    )


def _details(check: Check) -> Section:
    counts = check.figures.get("counts", {})
    return Section(
        heading=f"{check.name}: {' and '.join(check.sets)}",
        warnings=[check.finding],
        counts=counts,
        rows=check.examples,
    )
