"""Break commands at random and compare what they end with: `run.py OUT --faults N [--kinds ...]`.

A kind is a command that makes something: a data set, or a trained and scored run. It is killed or
stopped at random moments, its disk is filled, and between two starts a file of what it has written
so far is damaged. The same command is repeated until it finishes. It must then hold the same files
as one that nothing disturbed, and no temporary file. results.csv gets one line per fault as soon as
its run has ended, so that the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from actial.inference.server_process import WATCH

HERE = Path(__file__).parent
COLUMNS = ("run", "kind", "fault", "during", "next_start", "half_written", "ends")
IMPORTED = ["actial.train", "actial.build", "actial.reporting.html_report"]
IMPORTED += ["actial.pipeline.stages", "actial.pipeline.score_models"]
FAULTS_PER_RUN = 8  # then it may finish: on a busy machine none would
FILLED = 400_000  # at most so many bytes are free on a disk that is filled
TIMEOUT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A command, its arguments, and the patterns of the files that are compared at the end."""

    module: str
    arguments: tuple[str, ...]
    compared: tuple[str, ...]
    output: str  # the key of the output folder
    damaged: str = "*"  # pattern of the files of unfinished work that may be damaged


TRAIN = ("+experiment=smoke", "trainer.threads=1", "logger=none", "sft.save_every=1")
TRAIN += ("grpo.save_every=1", "sft.steps=2", "grpo.steps=2", "benchmark.limit=2")
MODELS = ("*/model/*", "metrics.jsonl", "results.json", "report.html")
ENGINE = "sampler.engine.max_model_len=1024"
BUILD = ("source=procedural", "dataset=world", "workers=1")
KINDS = {
    "build": Kind(module="actial.build", arguments=BUILD, compared=("*",), output="out"),
    "hf": Kind(module="actial.train", arguments=TRAIN, compared=MODELS, output="run_dir"),
    "ranks": Kind(
        module="actial.train",
        arguments=(*TRAIN, "trainer.devices=2", "trainer.strategy=ddp", "stages=[sft]"),
        compared=MODELS,
        output="run_dir",
    ),
    "vllm": Kind(
        module="actial.train",
        arguments=(*TRAIN, "stages=[grpo]", "sampler=vllm", ENGINE),
        compared=MODELS,
        output="run_dir",
    ),
    "vllm_server": Kind(
        module="actial.train",
        arguments=(*TRAIN, "stages=[grpo]", "sampler=vllm_server", ENGINE, "grpo.steps=30"),
        compared=MODELS,
        output="run_dir",
    ),
}


# ---------------------------------------------------------------- faults


def cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(max(1, path.stat().st_size)))


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes() or b"\0")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def half_write(path: Path, rng: random.Random) -> None:
    """Replace the end by zeros, as a file system does whose disk was full."""
    size = path.stat().st_size
    whole = rng.randrange(max(1, size))
    path.write_bytes(path.read_bytes()[:whole] + bytes(size - whole))


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


Damage = Callable[[Path, random.Random], None]
DAMAGES: dict[str, Damage] = {
    "cut": cut,
    "bit flipped": flip,
    "half written": half_write,
    "deleted": delete,
}


def damageable(kind: str, folder: Path) -> list[Path]:
    """Return the files that decide what a resumed command ends with.

    Of a run they are those of its newest checkpoint; of a build, its unfinished work.
    """
    if kind == "build":
        work = folder / ".build"
        return [path for path in sorted(work.glob("*")) if "lock" not in path.name]
    steps = sorted(folder.glob("checkpoints/*/step-*"), key=lambda p: p.stat().st_mtime)
    return sorted(steps[-1].iterdir()) if steps else []


# ---------------------------------------------------------------- processes


def run_module(module: str, arguments: list[str], log: Path) -> None:
    """Run `python -m module arguments` in this process, a leader of its own group."""
    os.setsid()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Started:
    """A command that runs: forked from a process that has imported torch, or of several ranks.

    Forking saves the seconds of the imports, in which nothing can break.
    """

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        kind = KINDS[name]
        self.process: subprocess.Popen[bytes] | BaseProcess
        if name == "ranks":  # the launcher starts the other ranks by the command line
            command = [sys.executable, "-m", kind.module, *arguments]
            with log.open("ab") as file:
                self.process = subprocess.Popen(
                    command, stdout=file, stderr=file, start_new_session=True
                )
        else:
            context = multiprocessing.get_context("forkserver")
            task = (kind.module, arguments, log)
            self.process = context.Process(target=run_module, args=task)
            self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, None while it runs."""
        if isinstance(self.process, BaseProcess):
            self.process.join(seconds)
            return self.process.exitcode
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def end(self) -> int:
        """Wait for the end, and end what it has left running; a hanging command is killed."""
        code = self.wait(TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return -signal.SIGKILL if code is None else code

    def children(self) -> list[int]:
        """Return the processes that this one has started, and theirs, but for guards.

        A guard is the small process that ends a server when its trainer is gone.
        """
        process_ids = [self.pid]
        for pid in process_ids:
            with suppress(FileNotFoundError, ProcessLookupError):
                words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                process_ids += [int(word) for word in words]
        return [pid for pid in process_ids[1:] if not _is_guard(pid)]


def _is_guard(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return WATCH.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


# ---------------------------------------------------------------- one run


@dataclass
class Soak:
    """One kind, its folders, and the undisturbed result that others are compared with."""

    kind: str
    out: Path
    settings: list[str]
    seconds: float = 0.0

    def arguments(self, folder: Path) -> list[str]:
        kind = KINDS[self.kind]
        return [*kind.arguments, *self.settings, f"{kind.output}={folder}"]

    def start(self, folder: Path) -> Started:
        return Started(self.kind, self.arguments(folder), folder.parent / "log.txt")

    @property
    def reference(self) -> Path:
        # The title of a report is the folder's name, so every run has the same one.
        return self.out / self.kind / "undisturbed" / "run"

    def undisturbed(self) -> None:
        self.reference.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):  # the second only tells the time
            shutil.rmtree(self.reference, ignore_errors=True)
            started = time.monotonic()
            if code := self.start(self.reference).end():
                sys.exit(f"{self.kind}: the undisturbed run ended with code {code}")
            self.seconds = time.monotonic() - started

    def break_run(self, number: int, disk: Path | None) -> list[dict[str, str]]:
        """Break one run until it finishes; return its faults as lines of the table."""
        rng = random.Random(f"{self.kind} {number}")
        parent = self.out / self.kind / f"{number:04d}"
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir(parents=True)
        if disk is not None:
            parent = disk / parent.name
            parent.mkdir()
        folder = parent / "run"
        faults: list[dict[str, str]] = []
        while True:
            process = self.start(folder)
            spared = len(faults) >= FAULTS_PER_RUN
            code = process.end() if spared else process.wait(rng.uniform(0.0, self.seconds))
            if code is None:
                fault = self._disturb(process, folder, rng, disk)
                code = process.end()
            else:
                fault = {}
                process.end()
            last = (parent / "log.txt").read_text(errors="replace").splitlines()[-1:]
            if faults:
                faults[-1]["next_start"] = _outcome(code, last, bool(fault))
            if not fault:
                break
            faults.append(fault)
            if rng.random() < 0.4 and (paths := damageable(self.kind, folder)):
                path, damage = rng.choice(paths), rng.choice(list(DAMAGES))
                DAMAGES[damage](path, rng)
                name = f"{path.name} {damage}"
                faults.append({"fault": name, "during": fault["during"]})
                self._mend_refused(faults, path, folder)
        different = (
            [f"exit code {code}: {' '.join(last)}"] if code else self.differences(folder)
        )
        half = self.leftovers(folder)
        for fault in faults:
            fault |= {"run": str(number), "kind": self.kind}
            fault |= {
                "half_written": str(len(half)),
                "ends": "; ".join(different) or "identical",
            }
        if not different and not half:
            shutil.rmtree(parent)
        return faults

    def _mend_refused(self, faults: list[dict[str, str]], path: Path, folder: Path) -> None:
        """Start on a damaged file of a build: where it is refused, do what the message says."""
        if self.kind != "build":
            return
        process = self.start(folder)
        code = process.end()
        last = (folder.parent / "log.txt").read_text(errors="replace").splitlines()[-1:]
        faults[-1]["next_start"] = _outcome(code, last, broken_again=False)
        if code != 1:
            return
        if path.name == "build.json":  # what the folder was made from: it is begun anew
            shutil.rmtree(folder)
        else:
            path.unlink(missing_ok=True)

    def _disturb(
        self, process: Started, folder: Path, rng: random.Random, disk: Path | None
    ) -> dict[str, str]:
        """Kill, stop or starve the command, and return the fault and the stage it hit."""
        during = stage_of(self.kind, folder)
        if disk is not None:
            filler = disk / "filler"
            free = shutil.disk_usage(disk).free
            with suppress(OSError):
                filler.write_bytes(bytes(max(0, free - rng.randrange(FILLED))))
            process.wait(2 * self.seconds)
            filler.unlink()
            return {"fault": "disk full", "during": during}
        children = process.children()
        if self.kind in ("ranks", "vllm_server") and children and rng.random() < 0.7:
            victim = rng.choice(children)
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            return {"fault": f"SIGKILL of a {_role(self.kind)}", "during": during}
        number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
        return {"fault": number.name, "during": during}

    def differences(self, folder: Path) -> list[str]:
        """Return the files that differ from the undisturbed result."""
        paths: set[Path] = set()
        for pattern in KINDS[self.kind].compared:
            for root in (self.reference, folder):
                paths |= {path.relative_to(root) for path in root.glob(pattern)}
        names = sorted(path for path in paths if (self.reference / path).is_file())
        names += sorted(path for path in paths if not (self.reference / path).exists())
        return [str(name) for name in names if not self._same(folder / name, name)]

    def _same(self, path: Path, name: Path) -> bool:
        other = self.reference / name
        return path.is_file() and other.is_file() and path.read_bytes() == other.read_bytes()

    def leftovers(self, folder: Path) -> list[str]:
        """Return the temporary files and folders that remain."""
        hidden = [path for path in folder.rglob(".*") if path.name != ".lock"]
        return [str(path.relative_to(folder)) for path in hidden]


def _role(kind: str) -> str:
    return "rank" if kind == "ranks" else "server process"


def _outcome(code: int, last: list[str], broken_again: bool) -> str:
    if broken_again:
        return "went on, broken again"
    if code == 0:
        return "went on"
    return f"exit code {code}: {' '.join(last)[:160]}"


def stage_of(kind: str, folder: Path) -> str:
    """Return what an unfinished command was doing, by the files that it has written."""
    if kind == "build":
        return "build"
    if (folder / "scores").exists():
        return "scoring"
    for stage in ("grpo", "sft"):
        if (folder / stage).exists():
            return stage
    return "start"


# ---------------------------------------------------------------- the table


def read_table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, faults: list[dict[str, str]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(faults)


def summary(lines: list[dict[str, str]]) -> str:
    """Return the table of all faults: one line for each kind of command and of fault."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in lines:
        damaged = line["fault"].rpartition(" ")[2] in ("cut", "flipped", "written", "deleted")
        fault = "damaged file" if damaged else line["fault"]
        groups.setdefault((line["kind"], fault), []).append(line)
    text = (
        "| command | fault | faults | survived | left half written | resumed bit-identical |\n"
    )
    text += "|---|---|---|---|---|---|\n"
    groups[("all", "")] = lines
    for (kind, fault), of_group in groups.items():
        survived = sum("exit code" not in line["ends"] for line in of_group)
        half = sum(line["half_written"] != "0" for line in of_group)
        identical = sum(line["ends"] == "identical" for line in of_group)
        text += f"| {kind} | {fault} | {len(of_group)} | {survived} | {half} | {identical} |\n"
    return text


def _next_number(lines: list[dict[str, str]], kind: str) -> int:
    return 1 + max((int(line["run"]) for line in lines if line["kind"] == kind), default=-1)


def small_disk(folder: Path) -> Path | None:
    """Mount a disk that can be filled; None where this user may not."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)]
    return None if subprocess.run(command, capture_output=True).returncode else folder


def make_captures(out: Path) -> Path:
    """Return the captures of a small procedural world, made where they do not exist."""
    world = out.absolute() / "world"
    if not world.exists():
        sizes = ["objects=12", "unseen_objects=2", "sat_train=1", "sat_val=0", "sat_test=0"]
        command = [sys.executable, "-m", "actial.world", f"out={world}", *sizes]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return world / "captures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--faults", type=int, default=300, help="in results.csv at the end")
    parser.add_argument("--kinds", nargs="+", default=["build", "hf"], choices=list(KINDS))
    parser.add_argument("--results", type=Path, default=HERE)
    parser.add_argument("--only", type=int, help="end after so many faults of this call")
    options, settings = parser.parse_known_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    table: Path = options.results / "results.csv"
    lines = read_table(table)
    before = len(lines)
    soaks = []
    for name in options.kinds:
        own = settings if name != "build" else [f"source.root={make_captures(options.out)}"]
        soaks.append(Soak(name, options.out.absolute(), own))
        soaks[-1].undisturbed()
        print(f"{name}: {soaks[-1].seconds:.1f} s undisturbed", flush=True)
    limit = options.faults if options.only is None else before + options.only
    numbers = {name: _next_number(lines, name) for name in options.kinds}
    while len(lines) < limit:
        soak = min(soaks, key=lambda one: sum(line["kind"] == one.kind for line in lines))
        number = numbers[soak.kind]
        numbers[soak.kind] += 1
        starved = number % 4 == 3
        disk = small_disk(options.out.absolute() / "disk") if starved else None
        try:
            faults = soak.break_run(number, disk)
        finally:
            if disk is not None:
                subprocess.run(
                    ["umount", "-l", str(disk)], check=True
                )  # a server may still end
        append(table, faults)
        lines += faults
        ends = faults[-1]["ends"] if faults else "finished before it was broken"
        print(f"{soak.kind} {number}: {len(faults)} faults, {ends}", flush=True)
        (options.results / "results.md").write_text(summary(lines))
    sys.exit(any(line["ends"] != "identical" for line in lines[before:]))


if __name__ == "__main__":
    main()
