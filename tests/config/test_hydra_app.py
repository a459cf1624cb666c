"""The command line as a process: what it prints, how it exits, what it imports."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from actial.config import BuildConfig, TrainConfig
from actial.config.command_line import job_name, parse_command_line, quote_values
from actial.config.exit_codes import Exit, disk_full, errors_reported
from actial.core.errors import UserError
from actial.core.paths import CONF

ROOT = CONF.parent
HEAVY = ("torch", "transformers", "lightning", "vllm", "pandas", "matplotlib", "scipy")


def run(
    *arguments: str, module: str = "actial.train", cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def imported_by(*arguments: str) -> set[str]:
    """Top-level packages that `python -m actial.train ARGUMENTS` has imported when it ends."""
    code = (
        "import runpy, sys, atexit\n"
        "top_level = lambda: {name.partition('.')[0] for name in sys.modules}\n"
        "atexit.register(lambda: print(*sorted(top_level()), file=sys.stderr))\n"
        f"sys.argv = ['train', *{list(arguments)!r}]; "
        "runpy.run_module('actial.train', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--cfg", "job", "+experiment=quickstart"),
        ("+experiment=smoke", "--cfg", "job", "--resolve"),
    ],
)
def test_help_and_config_come_without_heavy_imports(arguments: tuple[str, ...]) -> None:
    names = imported_by(*arguments)
    assert "hydra" in names  # the probe works
    assert not names & set(HEAVY)


def test_help_and_config_come_soon() -> None:
    """Within some bare starts of Python and Hydra, so that the machine's speed does not matter."""

    def seconds(*words: str) -> float:
        tries = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], capture_output=True, cwd=ROOT, check=True)
            tries.append(time.perf_counter() - began)
        return min(tries)

    bare = seconds("-c", "import hydra.main, hydra.compose")
    assert seconds("-m", "actial.train", "--help") < 4 * bare
    assert seconds("-m", "actial.train", "--cfg", "job", "+experiment=quickstart") < 5 * bare


def test_help_names_every_choice() -> None:
    page = run("--help").stdout
    assert page.startswith("python -m actial.train +experiment=NAME")
    for group in ("+experiment: ", "model: ", "mix@sft.mix: ", "sampler: "):
        assert f"\n  {group}" in page
    assert "quickstart" in page
    assert "[tiny]" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("+experiment=quikstart",),
            "error: there is no experiment named 'quikstart' (did you mean quickstart?); "
            "there are ",
        ),
        (
            ("experiment=quickstart",),
            "error: experiment is not in the defaults of this command: write +experiment=NAME.\n",
        ),
        (
            ("+experiment=smoke", "cold_start.ratio=1.5"),
            "error: cold_start.ratio=1.5 cannot be used: give a number in [0, 1].\n",
        ),
        (
            ("+experiment=smoke", "sft.group_size=4"),
            "error: sft.group_size is not a setting of SFTConfig",
        ),
        ((), "error: run_dir is not set: add run_dir=VALUE to the command.\n"),
    ],
)
def test_bad_input_exits_1_with_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_an_unknown_flag_exits_1() -> None:
    done = run("--quick")
    assert done.returncode == 1
    assert "unrecognized arguments: --quick" in done.stderr


def test_a_missing_data_set_or_model_is_named_before_anything_is_written(
    tmp_path: Path,
) -> None:
    done = run("+experiment=smoke", f"run_dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: data.sets.sat.root=data/sat is no finished data set (no manifest.json)"
    )
    done = run(
        "+experiment=smoke",
        "model.path=runs/a/sft/model",
        "benchmark=none",
        "stages=[sft]",
        "data=base",
        "mix@sft.mix=clock",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: model.path=runs/a/sft/model does not exist: give a model folder or a hub id.\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_settings_of_a_sweep_are_not_one_run_s(tmp_path: Path) -> None:
    done = run("-m", "+experiment=ablate_reward", "--cfg", "job", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "error: --cfg shows the settings of one run: leave out -m, and name one "
        "value of each swept setting.\n"
    )


def test_a_failed_job_of_a_multirun_leaves_its_reason_and_does_not_stop_the_others(
    tmp_path: Path,
) -> None:
    done = run(
        "-m", "+experiment=smoke", "seed=3,4", f"run_dir={tmp_path / 'sweep'}", cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.count("error: data.sets.sat.root=data/sat is no finished data set") == 2
    assert done.stderr.splitlines()[-1].startswith("error: a job of the sweep failed, see ")
    for seed in (3, 4):
        note = tmp_path / "sweep" / f"seed={seed}" / "error.txt"
        assert note.read_text().startswith(
            "error: data.sets.sat.root=data/sat is no finished data set"
        )


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("model.path=runs/a/seed=1/sft/model", "runs/a/seed=1/sft/model"),
        ("model.path=runs/cold_start=none,seed=1/model", "runs/cold_start=none,seed=1/model"),
        ("model.path='runs/seed=1'", "runs/seed=1"),
        (r"model.path=it's/seed=1", "it's/seed=1"),
        ("data.sets={x: {root: a=b}}", None),
        ("seed=choice(1,2)", None),
        ("run_dir=runs/plain", "runs/plain"),
        ("+experiment=smoke", "smoke"),
    ],
)
def test_a_value_may_hold_an_equals_sign(word: str, value: str | None) -> None:
    (result,) = quote_values([word], multirun=False)
    assert (
        result == word
        if value is None
        else OverridesParser.create().parse_override(result).value() == value
    )


PATHS = (
    *(
        "Möwe ü",
        "it's",
        "a(b)",
        "a,b",
        "a&b",
        "a#b",
        "a!b",
        "~x",
        "a{b}",
        "a[b]",
        'a"b',
        "日本",
    ),
    *(
        "a;b",
        "a\\b",
        "a:b",
        "a%b",
        "@a",
        "*",
        " a b ",
        "-x",
        "???",
        "null",
        "a\\",
        "a\\'",
        "(a",
    ),
    *("a)", "[x", "{y", "`", "|<>", "^", "~", "a\nb", "a\udcffb", "$HOME", "a=b,c=d"),
)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("form", ["/data/{}", "/data/{}/captures", "{}/captures", "./{}"])
def test_a_path_may_hold_any_character(name: str, form: str) -> None:
    path = form.format(name)
    if path[:1] in "[{":
        path = f"./{path}"  # a value that begins so is a list or a dict
    (word,) = quote_values([f"source.root={path}"], multirun=False)
    override = OverridesParser.create().parse_override(word)
    assert override.value() == path
    assert not override.is_sweep_override()


def test_a_path_in_half_a_pair_of_quotes_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"out='a/b cannot be read.* as out=\./'a/b"):
        quote_values(["out='a/b"], multirun=False)


def test_the_choices_of_a_sweep_are_quoted_one_by_one() -> None:
    words = ["model.path=runs/seed=1,runs/seed=2", "seed=1,2", "lr=choice(1,2)", "a=[1,2]"]
    assert quote_values(words, multirun=True) == [
        "model.path='runs/seed=1','runs/seed=2'",
        *words[1:],
    ]


TEXTS = (
    "2024_05",
    "1e5",
    "1.10",
    "true",
    "inf",
    "null",
    "[x]",
    "{x}",
    "{x",
    "[a,b]",
    "{a: 1}",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["source.root", "out", "source.license"])
def test_a_text_setting_gets_what_is_typed(key: str, text: str) -> None:
    (word,) = quote_values([f"{key}={text}"], False, BuildConfig)
    assert OverridesParser.create().parse_override(word).value() == text


def test_null_and_numbers_of_other_settings_stay() -> None:
    words = [
        "source.mask_root=null",
        "pairs.seed=1_0",
        "pairs.max_rows.val=10",
        "source=colmap",
    ]
    assert quote_values(words, False, BuildConfig) == words
    assert quote_values(["data.sets.x.root=1_0", "seed=1,2"], True, TrainConfig) == [
        "data.sets.x.root='1_0'",
        "seed=1,2",
    ]
    assert quote_values(["model.path=1_0,b"], True, TrainConfig) == ["model.path='1_0','b'"]


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert quote_values(["out=~/a", "source.root=~"], False, BuildConfig) == [
        "out=/home/someone/a",
        "source.root=/home/someone",
    ]
    assert quote_values(["model.path=~/a,~/b"], True, TrainConfig) == [
        "model.path=/home/someone/a,/home/someone/b"
    ]


def build_error(*words: str, cwd: Path) -> str:
    done = run("source=colmap", "out=o", *words, module="actial.build", cwd=cwd)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert not (cwd / "o").exists()
    return done.stderr


@pytest.mark.parametrize("name", ["2024_05", "a${b}c", "x,y", "choice(x)"])
def test_a_folder_that_looks_like_grammar_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    message = build_error(f"source.root={name}", cwd=tmp_path)
    assert message.startswith(f"error: source.root={name} holds no capture")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("source.root=", "source.root= has no value: write source.root=VALUE"),
        ("source.mask_root=", "source.mask_root= has no value: write source.mask_root=VALUE"),
        ("source.root=a${b}c", "source.root refers to ${b}, which is no setting"),
        ("source.root=x,y", "source.root=x,y names several values: add -m to run each"),
        ("source.root=choice(x)", "source.root=choice(x) names several values: add -m"),
    ],
)
def test_a_path_that_cannot_be_read_is_one_sentence(
    word: str, message: str, tmp_path: Path
) -> None:
    assert build_error(word, cwd=tmp_path).startswith(f"error: {message}")


def test_every_job_of_a_sweep_has_a_folder_of_its_own() -> None:
    long = "model.path=" + 60 * "deep/"
    names = [
        job_name(text)
        for text in ("data.root=a/b", "data.root=a_b", "x=[1,2]", long, long + "er")
    ]
    assert names[1] == "data.root=a_b"
    assert len({name.lower() for name in names}) == 5
    assert all("/" not in name and len(name) < 160 for name in names)


# ---------------------------------------------------------------- exit codes


def leave(error: BaseException, folder: list[Path]) -> int:
    with pytest.raises(Exit) as left, errors_reported(folder):
        raise error
    assert isinstance(left.value.code, int)
    return left.value.code


def test_a_user_error_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert leave(UserError("seed=x cannot be used: give a number."), [tmp_path]) == 1
    assert capsys.readouterr().err == "error: seed=x cannot be used: give a number.\n"
    assert not list(tmp_path.iterdir())


def test_a_fault_of_ours_keeps_its_traceback_in_the_run_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert leave(ZeroDivisionError("division by zero"), [tmp_path]) == 2
    assert capsys.readouterr().err == (
        f"error: this is a fault of actial: ZeroDivisionError: division by zero; "
        f"the traceback is in {tmp_path / 'error.txt'}.\n"
    )
    assert "in leave" in (tmp_path / "error.txt").read_text()


def test_without_a_run_folder_the_traceback_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert leave(ZeroDivisionError("division by zero"), []) == 2
    assert "in leave" in capsys.readouterr().err


def test_a_full_disk_is_the_users_to_mend(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        leave(OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.jsonl"), [])
        == 1
    )
    assert (
        capsys.readouterr().err
        == "error: the disk is full (runs/a/metrics.jsonl): free some space and "
        "run the same command again.\n"
    )


@pytest.mark.parametrize("forbidden", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_an_output_folder_that_cannot_be_written_is_the_users_to_mend(
    forbidden: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = OSError(forbidden, "Operation not permitted", str(tmp_path / "index.jsonl"))
    assert leave(error, [tmp_path]) == 1
    message = f"error: {tmp_path} cannot be written (Operation not permitted): "
    assert capsys.readouterr().err == f"{message}give another output folder.\n"
    assert not (tmp_path / "error.txt").exists()


def test_a_file_that_permissions_forbid_is_the_users_to_mend(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/data/captures/images/000.jpg")
    assert leave(error, [tmp_path]) == 1
    assert "/data/captures/images/000.jpg cannot be used" in capsys.readouterr().err


def test_other_errors_of_files_stay_faults_of_ours(tmp_path: Path) -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "metrics.jsonl"))
    assert leave(error, [tmp_path]) == 2
    assert leave(OSError(errno.EIO, "Input/output error", "/data/a"), [tmp_path]) == 2


def test_a_full_disk_is_known_in_the_words_of_extensions() -> None:
    assert disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    inner = ValueError("while saving")
    inner.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert disk_full(inner)
    assert not disk_full(OSError(errno.ENOENT, "No such file or directory"))


def test_writing_to_a_really_full_device(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(Exit) as left,
        errors_reported([]),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")
    assert left.value.code == 1
    assert "the disk is full" in capsys.readouterr().err


def test_a_path_with_an_equals_sign_is_no_setting() -> None:
    words = ["runs/seed=1/scores", "b", "hydra/launcher=pool", "mix@sft.mix=sat", "out=x/y"]
    overrides = parse_command_line(words, "models[]").overrides
    assert overrides == (*words[2:], "models=['runs/seed=1/scores','b']")


def test_a_pipe_that_is_read_in_part_is_no_fault() -> None:
    code = (
        "from actial.config.hydra_app import hydra_command\n"
        "@hydra_command('compare', folder_key=None, positional='models[]')\n"
        "def main(config): raise BrokenPipeError\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "a", "b"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
