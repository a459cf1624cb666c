"""Weights on their way to a vLLM server that reads them from a folder."""

from __future__ import annotations

import shutil
import socket
import time
import weakref
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from actial.config import ModelConfig
from actial.core.errors import UserError
from actial.modeling.hf_checkpoint import companion_files


class WeightFolder:
    """The newest weights of the run that owns a server's address, as a model folder.

    What a killed run has left for that address is removed first, and ours when this process ends.
    Several machines may share the parent folder.
    """

    def __init__(self, parent: Path, address: str) -> None:
        self.path = parent / f"weights-{socket.gethostname()}-{address}"
        self.remove()
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def remove(self) -> None:
        """Remove all weights."""
        shutil.rmtree(self.path, ignore_errors=True)

    def write(self, source: ModelConfig, tensors: Mapping[str, Tensor]) -> Path:
        """Write a model folder beside those that are there; config and processor are the source's.

        Raises UserError when there is no room.
        """
        folder = self.path / str(time.time_ns())
        try:
            _write(folder, source, tensors)
        except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(
                f"weights could not be written to {folder} ({error}): free space or set "
                "sampler.folder."
            ) from error
        return folder

    def keep_only(self, newest: Path) -> None:
        """Remove all but the newest weights."""
        for folder in self.path.iterdir():
            if folder != newest:
                shutil.rmtree(folder)


def _write(folder: Path, source: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    from huggingface_hub import snapshot_download

    path = Path(source.path)
    if not path.is_dir():
        weights = ["*.safetensors", "*.bin"]
        path = Path(
            snapshot_download(source.path, revision=source.revision, ignore_patterns=weights)
        )
    folder.mkdir(parents=True)
    for file in (path / "config.json", *companion_files(path)):
        shutil.copy2(file, folder / file.name)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
