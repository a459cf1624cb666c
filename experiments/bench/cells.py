"""The cells of the table: a workload, and how often it is run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from setting import Work

REAL_VOCAB = 151_936  # Qwen2.5-VL's


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`steps` timed steps of the peer in each of `blocks` blocks, after `warm_up` steps, in each of
    `processes` fresh processes.
    """

    work: Work
    title: str
    steps: int = 1
    warm_up: int = 1
    blocks: int = 2
    processes: int = 1
    shared: bool = False  # one process for all cells that say so: they share its start


GRPO, SFT = Work(), Work(kind="sft", pixels=224)
PARITY = Cell(
    work=Work(pixels=112, ragged=True, beta=0.1),
    title="GRPO, parity: two 112-px images, ragged completions, k3 with beta 0.1",
    steps=4,
)
CELLS: dict[str, Cell] = {
    "parity": PARITY,
    "grpo": Cell(
        work=GRPO,
        title="GRPO: two 448-px images, 16 completions of 48 tokens",
        steps=3,
        processes=3,
    ),
    "grpo_plain": Cell(
        work=Work(plain_peer=True),
        title="the same, TRL through the model's plain forward",
        steps=2,
    ),
    "grpo_kl": Cell(
        work=Work(beta=0.01), title="the same with k3 against a frozen copy", steps=2
    ),
    "grpo_all_positions": Cell(
        work=Work(all_positions=True),
        title="the same, we score every position TRL scores",
        steps=2,
    ),
    "grpo_torch": Cell(
        work=Work(torch_products=True),
        title="the same, our matrix products are torch's, as TRL's",
        steps=2,
    ),
    "grpo_bf16": Cell(
        work=Work(bf16=True),
        title="the same, bf16 autocast and gradient checkpointing in both",
        blocks=1,
        steps=2,
    ),
    "grpo_real_vocab": Cell(
        work=Work(vocab=REAL_VOCAB, plain_peer=True),
        title="the same at vocabulary 151,936, TRL's plain forward",
        blocks=1,
        steps=2,
    ),
    "grpo_step": Cell(
        work=Work(samples_itself=True),
        title="the whole step: each samples (TRL with transformers' generate), grades, updates",
        steps=2,
    ),
    "sft": Cell(
        work=SFT, title="SFT: two 224-px images, three questions", steps=5, processes=3
    ),
    "sft_torch": Cell(
        work=replace(SFT, torch_products=True),
        title="the same, our matrix products are torch's, as TRL's",
        steps=3,
    ),
    "sft_real_vocab": Cell(
        work=Work(kind="sft", pixels=224, vocab=REAL_VOCAB),
        title="the same at vocabulary 151,936",
        blocks=1,
        steps=2,
    ),
}


def cheap_cell(title: str, work: Work) -> Cell:
    """A point of the curves; a step of PrefixGrouper takes a tenth of one of TRL's."""
    if work.peer == "trl":
        return Cell(title=title, work=work, steps=3, blocks=1, shared=True)
    return Cell(title=title, work=work, steps=8, blocks=2, shared=True)


GROUPS, PIXELS, LENGTHS, WIDTHS = (2, 4, 8, 32), (0, 112, 224, 560), (8, 192, 384), (64, 256)
CURVES: dict[str, tuple[str, Work]] = {
    f"group_{n}": (f"{n} completions", Work(group=n)) for n in GROUPS
}
CURVES |= {
    f"pixels_{n}": (f"two {n}-px images" if n else "no image", Work(pixels=n)) for n in PIXELS
}
CURVES |= {f"length_{n}": (f"completions of {n} tokens", Work(length=n)) for n in LENGTHS}
CURVES |= {f"width_{n}": (f"4 completions, width {n}", Work(width=n, group=4)) for n in WIDTHS}
CURVES["end"] = ("no image, 2 completions of 256 tokens", Work(pixels=0, group=2, length=256))
# The same cells against PrefixGrouper, which shares prompts too: its text model, our loop.
GROUPER: dict[str, Work] = {
    "16 completions": Work(),
    "2 completions": Work(group=2),
    "32 completions": Work(group=32),
    "no image": Work(pixels=0),
    "two 224-px images": Work(pixels=224),
    "completions of 8 tokens": Work(length=8),
    "completions of 192 tokens": Work(length=192),
    "no image, 2 completions of 256 tokens": Work(pixels=0, group=2, length=256),
    "two 224-px images, ragged completions": Work(pixels=224, ragged=True),
}
CURVES |= {
    "grouper_" + title.replace(",", "").replace(" ", "_"): (
        f"PrefixGrouper: {title}",
        replace(work, peer="prefix_grouper"),
    )
    for title, work in GROUPER.items()
}
CELLS |= {name: cheap_cell(title, work) for name, (title, work) in CURVES.items()}

MEMORY = Work(pixels=112, group=16, length=256, vocab=REAL_VOCAB)
MEMORY_STEP = replace(
    MEMORY, group=4
)  # whole steps: the peer's head, which scores every position, would take minutes
MEMORY_PARTS = ("chunked", "full", "actial", "trl")
