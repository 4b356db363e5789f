"""What the welcome screen tells: the `hetspec-core` commands that work today. It knows words only, no widgets."""

from __future__ import annotations

from dataclasses import dataclass

ABOUT = (
    "A small draft proposes several tokens as a tree, the large base verifies them in one pass: the answers stay the "
    "base's own, only sooner. HetSpec trains such drafts, measures them and lets you look into them."
)
TO_COME = "The dashboard of runs, charts, draft trees and chat is still to come."


@dataclass(frozen=True)
class Command:
    """One command of `hetspec-core`.

    Attributes:
        name: as typed after `hetspec-core`; its first word is the top-level command.
        summary: what it does, in one sentence.
        example: a complete command line that works as it stands, or with the reader's own names in capitals.
    """

    name: str
    summary: str
    example: str


COMMANDS = (
    Command(
        "demo",
        "The whole story in minutes on a small real model: generate a dataset, train a draft, measure it honestly.",
        "hetspec-core demo",
    ),
    Command(
        "dataset generate",
        "Let the base read or write conversations, and store its hidden states for training.",
        "hetspec-core dataset generate --help",
    ),
    Command(
        "dataset inspect",
        "Counts, lengths, the share of supervised tokens, and samples with those tokens coloured.",
        "hetspec-core dataset inspect FOLDER",
    ),
    Command(
        "dataset verify",
        "Forward random stored samples again and print how well the stored hidden states agree.",
        "hetspec-core dataset verify FOLDER",
    ),
    Command(
        "dataset merge",
        "Make one dataset out of several.",
        "hetspec-core dataset merge --help",
    ),
    Command(
        "train",
        "Train a draft; exact resume after a kill, the best checkpoint chosen by accept length.",
        "hetspec-core train --help",
    ),
    Command(
        "generate",
        "Answer one prompt, speculatively or plainly.",
        'hetspec-core generate "Why is the sky blue?"',
    ),
    Command(
        "bench",
        "Accept length, acceptance by depth and speed-up over plain decoding on a prompt set.",
        "hetspec-core bench --help",
    ),
    Command(
        "runs list",
        "Every run on this machine with its state.",
        "hetspec-core runs list",
    ),
    Command(
        "runs show",
        "One run: its spec, its last numbers and where its files are.",
        "hetspec-core runs show RUN_ID",
    ),
    Command(
        "presets list",
        "The presets that ship with HetSpec, and your own.",
        "hetspec-core presets list",
    ),
    Command(
        "presets show",
        "One preset fully resolved; --explain says where each value comes from.",
        "hetspec-core presets show NAME --explain",
    ),
)
