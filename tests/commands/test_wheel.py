"""The wheel works where there is no checkout: conf/ travels inside, every command starts from any
folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Installed:
    """A virtual environment that holds the wheel alone.

    Its dependencies come through PYTHONPATH from the environment of the tests: downloading torch
    takes minutes. Python reads no .pth file there, so the editable install of the checkout stays
    out of sight.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder / "env", with_pip=True)
        self.bin, self.folder = folder / "env" / "bin", folder
        pip = [
            self.bin / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            wheel,
        ]
        subprocess.run(pip, check=True)
        self.variables = os.environ | {
            "PYTHONPATH": sysconfig.get_paths()["purelib"],
            "PYTHONSAFEPATH": "1",
        }

    def __call__(self, *words: str) -> str:
        command = [self.bin / words[0], *words[1:]]
        done = subprocess.run(
            command, cwd=self.folder, env=self.variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("actial-*.whl")
    return Installed(folder, wheel)


def test_the_installed_package_is_the_wheel_and_not_the_checkout(installed: Installed) -> None:
    path = Path(installed("python", "-c", "import actial; print(actial.__file__)").strip())
    assert path.is_relative_to(installed.folder)


def test_help_and_composed_configuration_come_from_the_conf_in_the_wheel(
    installed: Installed,
) -> None:
    assert "qwen2_5_vl_7b" in installed("python", "-m", "actial.train", "--help")
    assert "qwen2_5_vl_7b" in installed("actial-train", "--help")
    composed = installed(
        "python", "-m", "actial.train", "--cfg", "job", "+experiment=quickstart"
    )
    assert "- sft" in composed
    assert "- grpo" in composed


def test_a_world_is_made_and_built_from_any_folder(installed: Installed) -> None:
    sizes = (
        "objects=3",
        "unseen_objects=0",
        "frames=12",
        "sat_train=4",
        "sat_val=0",
        "sat_test=0",
    )
    installed("actial-world", "out=world", *sizes)
    installed(
        "actial-build",
        "source=procedural",
        "dataset=world",
        "source.root=world/captures",
        "out=pairs",
    )
    assert (installed.folder / "pairs" / "manifest.json").is_file()
