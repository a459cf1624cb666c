"""Take the release's system prompt and question wording from the user's own copies."""

from __future__ import annotations

from actial.config import ImportReleaseConfig
from actial.config.hydra_app import hydra_command


@hydra_command("import_release", folder_key="out", positional="release")
def main(config: ImportReleaseConfig) -> None:
    """python -m actial.import_release DIR [rows=FILE] [out=release]

    DIR is a clone of the release, rows a .parquet, .json or .jsonl file of its
    viewpoint data set. Writes out/system_prompt.txt and, from the rows,
    out/wording.yaml, which `fidelity=paper` reads, with their hashes in
    out/release.json.
    """
    from actial.data.release_texts import import_release

    print(import_release(config))


if __name__ == "__main__":
    main()
