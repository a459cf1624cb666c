"""The paper's claims on the tiny world: sweeps, tables and verdicts, one folder per claim.

    python experiments/claims.py [CLAIM ...] [key=value ...]     run what is missing, then write tables and README.md of each claim
    python experiments/claims.py --tables                        only from the runs that are there
    python experiments/claims.py --cost                          how many runs there are to make

`key=value` goes to every sweep: seed=1,2,3,4,5 hydra/launcher=pool. A claim is a file experiments/<claim>/claim.yaml with its sweeps, and
checks that compare two figures at equal seeds. Verdicts are computed from the committed tables; remarks stand in notes.md beside them.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from actial.collect import collect
from actial.config import CollectConfig, register
from actial.core.atomic_io import write_text
from actial.core.errors import UserError
from actial.core.paths import CONF
from actial.reporting import analysis, seed_statistics
from actial.reporting.figures import scale
from actial.reporting.sweep_report import figure_text, markdown

ROOT = Path(__file__).resolve().parent
WORDS = "words.txt"  # beside claim.yaml
KINDS = ("holds", "leans to it", "open", "leans against", "contradicted")
MARGIN = 0.02  # of a share: what is "kept" may be lower by so much
SETTLED = 5  # seeds from which on a line may hold or be contradicted
# The last four rows of the paper's Table 1: name, condition and model of ablate_stages, and the
# paper's accuracy in percent in domain (BLINK MultiView) and out of it (CV-Bench's average).
ROWS = (
    ("base", "stage=sft_then_grpo", "base", (53.3, 71.2)),
    ("SFT alone", "stage=sft_only", "sft", (99.2, 73.1)),
    ("GRPO alone", "stage=grpo_only", "grpo", (55.6, 83.1)),
    ("SFT, then GRPO", "stage=sft_then_grpo", "grpo", (99.2, 83.5)),
)
DOMAINS = ("viewpoint", "sat_test")  # in domain and out of it, on the tiny world


def key_of(word: str) -> str:
    return word.partition("=")[0]


@dataclass(slots=True, frozen=True)
class Sweep:
    experiment: str
    words: tuple[str, ...]  # overrides of its settings: shorter runs, fewer points, more seeds
    more: tuple[
        tuple[str, ...], ...
    ]  # further commands, each with words of its own beside those: more seeds of some points
    out: Path  # of its tables
    against: str | None

    @property
    def runs(self) -> Path:
        return Path("runs") / self.experiment

    def variants(self, words: Sequence[str] = ()) -> list[list[str]]:
        """The overrides of each command; `words` come instead of what is set for their keys, and of commands that differ in those."""
        own = [
            one
            for one in ((), *self.more)
            if not set(map(key_of, one)) & set(map(key_of, words))
        ]
        return [
            list({key_of(word): word for word in (*self.words, *one, *words)}.values())
            for one in own
        ]

    def commands(self, words: Sequence[str] = ()) -> list[list[str]]:
        return [
            ["-m", "actial.train", "-m", f"+experiment={self.experiment}", *one]
            for one in self.variants(words)
        ]

    def follows(self, other: Sweep) -> bool:
        """Whether its runs start from models that the other's have left."""
        return compose(self.experiment).model.path.startswith(f"{other.runs}/")

    def given(self, words: Sequence[str], claims: Sequence[Claim]) -> list[str]:
        """Those of the command line's words that are for it: what only other sweeps of these claims vary is theirs."""
        elsewhere = {
            key
            for claim in claims
            for sweep in claim.sweeps.values()
            for key in params(sweep.experiment)
        }
        return [
            word
            for word in words
            if key_of(word) in params(self.experiment) or key_of(word) not in elsewhere
        ]


@dataclass(slots=True, frozen=True)
class Claim:
    name: str
    content: dict[str, Any]  # claim.yaml
    sweeps: dict[str, Sweep]  # the first is what checks are about that name none

    @property
    def folder(self) -> Path:
        return ROOT / self.name


def load(name: str) -> Claim:
    """Raises UserError for an unknown name."""
    path = ROOT / name / "claim.yaml"
    if not path.exists():
        raise UserError(f"no claim is called {name}: there are {', '.join(names())}.")
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    result = {key: value or {} for key, value in content["sweeps"].items()}
    sweeps = {
        key: Sweep(
            experiment=key,
            words=tuple(value.get("words", ())),
            more=tuple(tuple(own) for own in value.get("more", ())),
            out=path.parent if len(result) == 1 else path.parent / key,
            against=value.get("against"),
        )
        for key, value in result.items()
    }
    return Claim(name, content, sweeps)


def names() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("*/claim.yaml"))


# ---------------------------------------------------------------- runs


def compose(experiment: str, *words: str) -> Any:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(
            "train", [f"+experiment={experiment}", *words], return_hydra_config=True
        )


@cache
def params(experiment: str) -> dict[str, str]:
    """What its file sweeps: key -> values."""
    return dict(compose(experiment).hydra.sweeper.params)


def jobs(sweep: Sweep, words: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The overrides of every job of a sweep, over all of its commands."""
    return [job for one in sweep.variants(words) for job in _jobs(sweep.experiment, one)]


def _jobs(experiment: str, words: Sequence[str]) -> list[tuple[str, ...]]:
    chosen = params(experiment) | dict(
        word.split("=", 1) for word in words if not word.startswith("hydra/")
    )
    overrides = OverridesParser.create().parse_overrides(
        [f"{key}={value}" for key, value in chosen.items()]
    )
    (result,) = BasicSweeper.split_arguments(overrides, None)
    return [tuple(job) for job in result]


def needed(claims: Sequence[Claim]) -> Iterator[Sweep]:
    """Sweeps in the order they are run: the supervised models come first where another starts from them, and nothing is run twice."""
    every = [sweep for claim in claims for sweep in claim.sweeps.values()]
    (start,) = load("knowledge_injection").sweeps.values()
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for sweep in [*([start] if any(sweep.follows(start) for sweep in every) else []), *every]:
        if (key := (sweep.experiment, sweep.words)) not in seen:
            seen.add(key)
            yield sweep


def planned(sweep: Sweep, words: Sequence[str] = ()) -> list[tuple[str, tuple[str, ...]]]:
    """(experiment, settings but for the seed) of every job."""
    return [
        (sweep.experiment, tuple(word for word in job if key_of(word) != "seed"))
        for job in jobs(sweep, words)
    ]


def cost(points: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    """How many runs, and how many stages of each kind they train."""
    counts: Counter[str] = Counter()
    for (experiment, settings), seeds in Counter(points).items():
        for stage in compose(experiment, *settings).stages:
            counts[stage.name] += seeds
    return f"{len(points)} runs with {counts['sft']} SFT and {counts['grpo']} GRPO stages"


# ---------------------------------------------------------------- verdicts


def verdict(result: dict[str, float], expect: str) -> str:
    """One of KINDS for a difference as from analysis.compare; expect: above or below zero, "kept" (above -MARGIN), or "all" (a share of 1).

    It holds, or is contradicted, where Student's interval over at least SETTLED seeds lies on one side; with fewer seeds, or where only the
    bootstrap's interval does, it leans: three seeds on one side are what chance gives one time in four.
    """
    if result["low"] != result["low"]:
        return "open"  # a single seed
    enough = result["seeds"] >= SETTLED
    settled, against = (
        ("holds", "contradicted") if enough else ("leans to it", "leans against")
    )
    if expect == "all":
        return settled if result["low"] == 1 else against if result["high"] == 0 else "open"
    side, moved = (-1, 0.0) if expect == "below" else (1, MARGIN if expect == "kept" else 0.0)
    (low, high), (t_low, t_high) = (
        sorted(side * result[name] + moved for name in pair)
        for pair in (("low", "high"), ("t_low", "t_high"))
    )
    if low > 0 or high < 0:
        return (
            (settled if t_low > 0 else "leans to it")
            if low > 0
            else (against if t_high < 0 else "leans against")
        )
    return "open"


def checked(claim: Claim, tables: dict[str, pd.DataFrame]) -> list[list[str]]:
    """One line per check: what is said, the difference, seeds, verdict.

    A condition "*" on the left stands for each of the sweep; on the right then stands the same condition, or the one that is named.
    """
    lines = []
    for check in claim.content["checks"]:
        table = tables.get(check.get("sweep", next(iter(claim.sweeps))))
        if table is None:
            lines.append([check["say"], "", "", "not run yet"])
            continue
        cells = [
            {"metric": "accuracy"} | check[side] for side in ("left", "right") if side in check
        ]
        for condition in (
            table["condition"].unique() if cells[0].get("condition") == "*" else [None]
        ):
            where = [
                cell | {"condition": condition}
                if condition and cell.get("condition", "*") == "*"
                else cell
                for cell in cells
            ]
            if where[0] == where[-1] and len(where) > 1:
                continue  # a condition against itself
            said = f"{condition}: {check['say']}" if condition else check["say"]
            try:
                result = seed_statistics.compare(table, *where)
            except UserError:
                lines.append([said, "", "", "not run yet"])
                continue
            printed = figure_text(result, scale(cells[0]["metric"]), signed=len(cells) > 1)
            lines.append(
                [said, printed, str(result["seeds"]), verdict(result, check["expect"])]
            )
    return lines


def read_tables(claim: Claim) -> dict[str, pd.DataFrame]:
    """Experiment -> its committed figures, where there are any."""
    return {
        name: analysis.read_tidy(path)
        for name, sweep in claim.sweeps.items()
        if (path := sweep.out / "tidy.csv").exists()
    }


def readme(claim: Claim) -> str:
    """README.md of a claim, from claim.yaml, the committed tables and notes.md."""
    content, sweeps = claim.content, claim.sweeps
    tables = read_tables(claim)
    words = read_words(claim)
    points = [point for sweep in sweeps.values() for point in planned(sweep, words)]
    commands = [
        f"python {shlex.join(command)}"
        for sweep in sweeps.values()
        for command in sweep.commands(words)
    ]
    minutes = sum(table.drop_duplicates("run")["minutes"].sum() for table in tables.values())
    measured = (
        f" The runs in these tables took {minutes:.0f} minutes, added up." if minutes else ""
    )
    smaller = (
        ", but for these settings"
        if words or any(sweep.words for sweep in sweeps.values())
        else ""
    )
    links = [
        f"[{name}]({(sweep.out / 'ablation.md').relative_to(claim.folder)})"
        for name, sweep in sweeps.items()
        if name in tables
    ]
    notes = claim.folder / "notes.md"
    parts = [
        f"# {content['title']}",
        f"**Question.** {content['question']}",
        f"**The paper.** {content['paper']}",
        f"**Command.** `{' '.join(['python experiments/claims.py', claim.name, *words])}`, after `make data`; it runs\n\n```sh\n"
        + "\n".join(commands)
        + "\n```",
        f"**Cost.** {cost(points)} of the quickstart's size{smaller}; what they share is computed once.{measured}",
        "**Result.** Not run yet."
        if not tables
        else f"**Result.** {content.get('reading', DIFFERENCES)} {VERDICTS}",
        markdown(["what is said", "difference", "seeds", "verdict"], checked(claim, tables)),
        "**Tables.** " + ", ".join(links) if links else "",
        notes.read_text().strip() if notes.exists() else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def sign(difference: float) -> str:
    """The sign of a difference in points of percent; 0 within 2 points."""
    return "0" if abs(difference) <= 100 * MARGIN else "+" if difference > 0 else "-"


def table_one(claim: Claim) -> str:
    """The paper's four rows beside ours: means over seeds in percent, and signs against the base."""
    table = read_tables(claim).get("ablate_stages")
    if table is None:
        return ""
    means = table.groupby(["condition", "model", "set", "metric"])["value"].mean() * 100
    lines = []
    base: list[float] = []
    for name, condition, model, paper in ROWS:
        ours = [float(means[condition, model, domain, "accuracy"]) for domain in DOMAINS]
        form = min(means[condition, model, domain, "format"] for domain in DOMAINS)
        base = base or [*ours, *paper]
        signs = [
            sign(value - start) for value, start in zip([*ours, *paper], base, strict=True)
        ]
        agrees = (
            ""
            if model == "base"
            else ", ".join(
                "yes" if mine == theirs else "no"
                for mine, theirs in zip(signs[:2], signs[2:], strict=True)
            )
        )
        cells = [
            f"{value:.1f} ({mark})" for value, mark in zip([*ours, *paper], signs, strict=True)
        ]
        lines.append([name, *cells, agrees, f"{form:.0f}"])
    head = [
        "",
        "in domain",
        "out of domain",
        "paper, in",
        "paper, out",
        "signs agree",
        "form, least",
    ]
    seeds = table["seed"].nunique()
    return (
        f"The four rows of the paper's Table 1 on the tiny world, mean of {seeds} seeds, in percent; in brackets the sign against "
        "the base (0: within 2 points). In domain: viewpoint questions on held-out objects, in the paper BLINK's MultiView; out of "
        "domain: scene questions with a type that no training question has, in the paper CV-Bench. From "
        f"[{claim.name}]({claim.name}/README.md).\n\n{markdown(head, lines)}"
    )


def index(claims: Sequence[Claim]) -> str:
    """README.md of this folder: the paper's four rows, every claim with its verdicts, then the other
    questions asked here.
    """
    rows = []
    for claim in claims:
        verdicts = Counter(line[-1] for line in checked(claim, read_tables(claim)))
        rows.append(
            [
                f"[{claim.content['title']}]({claim.name}/README.md)",
                *[str(verdicts.pop(kind, 0)) for kind in KINDS],
                str(verdicts.total()),
            ]
        )
    others = sorted(
        path.parent
        for path in ROOT.glob("*/README.md")
        if not (path.parent / "claim.yaml").exists()
    )
    titles = [
        f"* [{(folder / 'README.md').read_text().splitlines()[0].lstrip('# ')}]({folder.name}/README.md)"
        for folder in others
    ]
    return "\n\n".join(
        [
            "# Questions asked, with results",
            *[table_one(claim) for claim in claims if claim.name == "two_stages"],
            "The paper's claims on the tiny world: how many lines of each hold, over seeds (written by `python experiments/claims.py`).",
            markdown(["claim", *KINDS, "not run"], rows),
            "\n".join(titles) + "\n",
        ]
    )


def read_words(claim: Claim) -> list[str]:
    """The settings that its runs were last started with, beside the sweeps' own."""
    path = claim.folder / WORDS
    return path.read_text().split() if path.exists() else []


DIFFERENCES = "Differences in points of percent, or in the metric's own unit, with the 95 % bootstrap interval over seeds."
VERDICTS = (
    "A line leans to where the whole interval lies, as three seeds do by chance one time in four; it holds, or is contradicted, where "
    f"Student's interval over {SETTLED} seeds or more lies there too. What is kept, or enough, may be {100 * MARGIN:.0f} points lower."
)


# ---------------------------------------------------------------- command line


def _run(commands: Sequence[Sequence[str]]) -> bool:
    """All of them, whatever comes of each; whether each ended well."""
    codes = [
        subprocess.run([sys.executable, *command], check=False).returncode
        for command in commands
    ]
    return not any(codes)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CLAIM or key=value",
        help=f"claims: {', '.join(names())}; without any, all",
    )
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument(
        "--cost", action="store_true", help="say how many runs there are, and do nothing"
    )
    given = parser.parse_args()
    words = [
        f"seed=choice({word[5:]})" if word[:5] == "seed=" and word[5:].isdigit() else word
        for word in given.words
        if "=" in word
    ]
    claims = [
        load(name) for name in [word for word in given.words if "=" not in word] or names()
    ]
    if given.cost:
        result = {
            sweep.experiment: planned(sweep, sweep.given(words, claims))
            for sweep in needed(claims)
        }
        for experiment, points in result.items():
            print(f"{experiment}: {cost(points)}")
        print(f"together: {cost([point for points in result.values() for point in points])}")
        return 0
    sweeps = [] if given.tables else list(needed(claims))
    failed = [
        sweep for sweep in sweeps if not _run(sweep.commands(sweep.given(words, claims)))
    ]
    parts = {
        key
        for claim in claims
        for sweep in claim.sweeps.values()
        for key in params(sweep.experiment)
    } - {"seed"}
    for claim in claims:
        if not given.tables:  # some of a sweep's points are no other sweep
            remaining = [word for word in words if key_of(word) not in parts]
            write_text(claim.folder / WORDS, " ".join(remaining) + "\n")
        for sweep in claim.sweeps.values():
            if list(sweep.runs.glob("*/results.json")):
                collect(
                    CollectConfig(
                        runs=str(sweep.runs),
                        out=os.path.relpath(sweep.out),
                        against=sweep.against,
                    )
                )
        write_text(claim.folder / "README.md", readme(claim))
        print(claim.folder / "README.md")
    write_text(ROOT / "README.md", index([load(name) for name in names()]))
    for sweep in failed:
        print(
            f"{sweep.experiment} did not end well: the same command goes on with what is missing.",
            file=sys.stderr,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
