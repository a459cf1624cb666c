"""The frozen protocol of a score: what must be equal before two figures may be compared.

It names the prompt, the images' resolution, the decoding, the answer reader,
the questions and the version, but not the model; its hash stands beside every
score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

from actial import __version__
from actial.core.atomic_io import write_json
from actial.core.errors import UserError
from actial.grading.multiple_choice import Compat
from actial.grading.reader_probes import reader_fingerprint

FILE = "protocol.json"  # beside predictions.jsonl
# stands for the readings of answers without a protocol
OLDER = "of an older version"
DATA = (
    "benchmark",
    "set",
    "split",
    "circular",
    "limit",
    "files",
    "index",
)


@dataclass(frozen=True, slots=True)
class Protocol:
    """Values by name: prompt, resolution, decoding, reader, data and version.

    Names are full ones, such as "decoding.max_tokens".
    """

    values: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """Return 12 hexadecimal digits, equal for equal values."""
        text = json.dumps(dict(self.values), sort_keys=True)
        return sha256(text.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        return {"hash": self.hash, **self.values}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Protocol:
        return cls({name: value for name, value in entry.items() if name != "hash"})

    def differences(self, other: Protocol) -> list[str]:
        """Return the names under which the two have other values."""
        names = sorted({*self.values, *other.values})
        return [name for name in names if self.values.get(name) != other.values.get(name)]


def protocol_of(
    settings: Mapping[str, Any], prompt: str, compat: Compat | str = Compat.LADDER
) -> Protocol:
    """Return the protocol of answers.

    Args:
        settings: of the model and the questions, as settings.json beside the answers has them.
        prompt: a user's text that stands for those of all questions.
        compat: who reads the answers.
    """
    hashes = settings.get("prompts", {})
    system_prompt = hashes.get("system_prompt")
    if "system_prompt" in settings:
        system_prompt = short_hash(json.dumps(settings["system_prompt"]))
    values = {
        "prompt.style": settings.get("style") or settings.get("mode"),
        "prompt.text": short_hash(prompt),
        "prompt.system_prompt": system_prompt,
        "resolution.pixel_limits": settings.get("pixel_limits") or hashes.get("pixel_limits"),
        "decoding.temperature": settings.get("temperature"),
        "decoding.max_tokens": settings.get("max_tokens"),
        "version": __version__,
    }
    values |= reader_values(compat)
    values |= {f"data.{name}": settings[name] for name in DATA if name in settings}
    return Protocol(values)


def reader_values(compat: Compat | str) -> dict[str, str]:
    """Return a reader's part of a protocol: its name, and a hash of what it reads."""
    name = Compat(compat).value
    return {"reader.name": name, "reader.readings": reader_fingerprint(name)}


def read_by(protocol: Protocol, compat: Compat | str) -> Protocol:
    """Return the protocol of the same answers under another reader."""
    return Protocol({**protocol.values, **reader_values(compat)})


def short_hash(text: str) -> str:
    """Return 16 hexadecimal digits, as checkpoints store the hashes of prompts."""
    return sha256(text.encode()).hexdigest()[:16]


def with_protocol(entry: Mapping[str, Any], protocol: Protocol) -> dict[str, Any]:
    """Return the content of scores.json with the protocol beside its scores, EASI's own too."""
    content = {**entry, "protocol": protocol.to_json()}
    if easi := entry.get("easi"):
        content["easi"] = {**easi, "protocol": read_by(protocol, easi["reader"]).hash}
    return content


# ---------------------------------------------------------------- files


def freeze_protocol(folder: Path, protocol: Protocol) -> Protocol:
    """Write protocol.json beside answers that are to be made under it, and return it.

    Answers without a protocol were read by an unknown version of the reader, and stay so marked.

    Raises:
        UserError: the folder holds answers made, or read, under another protocol.
    """
    before = read_protocol(folder)
    unknown = before is None and (folder / "predictions.jsonl").is_file()
    if unknown or (before and before.values.get("reader.readings") == OLDER):
        protocol = Protocol({**protocol.values, "reader.readings": OLDER})
    if before and (changed := before.differences(protocol)):
        name = changed[0]
        raise UserError(
            f"{folder} holds answers under protocol {before.hash} with "
            f"{name}={before.values.get(name)}, now {name}={protocol.values.get(name)}: give "
            "another output folder, or read those answers anew with actial.score."
        )
    write_protocol(folder, protocol)
    return protocol


def write_protocol(folder: Path, protocol: Protocol) -> None:
    """Write protocol.json of a folder of answers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, protocol.to_json())


def read_protocol(folder: Path) -> Protocol | None:
    """Return the protocol of a folder of answers; None where it has none.

    Raises UserError for a damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    cause = "its hash is another"
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        protocol = Protocol.from_json(entry)
        if entry.get("hash") == protocol.hash:
            return protocol
    except (ValueError, AttributeError) as error:
        cause = str(error)
    raise UserError(
        f"{path} is damaged ({cause}): put a copy back, or remove it, and the protocol of these "
        "answers counts as unknown."
    )


def protocol_of_file(
    folder: Path, settings: Mapping[str, Any], compat: Compat | str
) -> Protocol:
    """Return the protocol of answers from elsewhere: what they were asked under may be unknown.

    Args:
        folder: of the answers; its protocol.json is read where there is one.
        settings: of the questions that they are scored on.
        compat: who reads them.
    """
    protocol = read_protocol(folder) or Protocol({"version": __version__})
    data = {f"data.{name}": settings[name] for name in DATA if name in settings}
    return read_by(Protocol({**protocol.values, **data}), compat)


# ---------------------------------------------------------------- comparisons


def protocol_remarks(protocols: Sequence[tuple[str, Protocol | None]]) -> list[str]:
    """Return a sentence for every two scores that were not made under one protocol.

    Args:
        protocols: a name and the protocol of each score; None where it is not known.
    """
    remarks = []
    for (one, first), (other, second) in combinations(protocols, 2):
        if first and second and first.hash != second.hash:
            changed = ", ".join(
                _change(name, first, second) for name in first.differences(second)
            )
            remarks.append(
                f"{one} (protocol {first.hash}) and {other} (protocol {second.hash}) were scored "
                f"under different protocols: {changed}"
            )
    unknown = [name for name, protocol in protocols if protocol is None]
    if unknown and len(unknown) < len(protocols):
        remarks.append(f"the protocol of {', '.join(unknown)} is not known")
    return remarks


def _change(name: str, one: Protocol, other: Protocol) -> str:
    first, second = one.values.get(name), other.values.get(name)
    if isinstance(first, dict) or isinstance(second, dict):
        return name
    return f"{name} {first} and {second}"
