"""Write the bundled sentences: ``python -m spectune.starter.sentences --output DIR --seed 7``.

Financial news, 0 negative, 1 neutral, 2 positive, made by rule so that the right answer is known. A sentence means what
its main clause means; a conceded clause is drawn without regard to the label. See `sentence_clauses` for the rule of a
clause, `sentence_frames` for the frames, of which train and validation share none.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterator
from pathlib import Path

from spectune.starter.sentence_clauses import Label, draw_clause, say
from spectune.starter.sentence_frames import CONTRAST, SINGLE
from spectune.starter.sentence_words import ASIDES, COMPANIES, PERIODS, Split

SEED = 7
ROWS: dict[Split, int] = {"train": 4800, "validation": 360}
CONTRAST_SHARE = 0.62


def sentence(label: Label, split: Split, random_: random.Random) -> str:
    """One sentence with this meaning, in a frame of this split."""
    main = say(draw_clause(label, random_), random_)
    words = {
        "main": main,
        "company": random_.choice(COMPANIES[split]),
        "period": random_.choice(PERIODS),
        "aside": random_.choice(ASIDES),
    }
    frames = SINGLE
    if random_.random() < CONTRAST_SHARE:
        frames = CONTRAST
        words["side"] = say(
            draw_clause(random_.choice([other for other in Label if other is not label]), random_), random_
        )
    text = random_.choice(frames[split]).format(**words)
    return text[0].upper() + text[1:]


def rows(split: Split, seed: int) -> list[tuple[str, int]]:
    """The rows of a split, shuffled: as many of each label, no text twice. A pure function of its arguments."""
    random_ = random.Random(f"{split} {seed}")
    made: dict[str, int] = {}
    for label in _labels(ROWS[split]):
        text = next(text for text in _sentences(label, split, random_) if text not in made)
        made[text] = int(label)
    shuffled = list(made.items())
    random_.shuffle(shuffled)
    return shuffled


def write(directory: Path, seed: int) -> None:
    """Write ``train.csv`` and ``validation.csv`` (columns ``text``, ``label``) into ``directory``, made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    for split in ROWS:
        with (directory / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("text", "label"))
            writer.writerows(rows(split, seed))


def _labels(count: int) -> Iterator[Label]:
    labels = list(Label)
    return (labels[index % len(labels)] for index in range(count))


def _sentences(label: Label, split: Split, random_: random.Random) -> Iterator[str]:
    while True:
        yield sentence(label, split, random_)


def main(arguments: list[str] | None = None) -> None:
    """The program; ``arguments`` default to the command line's."""
    parser = argparse.ArgumentParser(prog="python -m spectune.starter.sentences", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="directory for train.csv and validation.csv")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    write(options.output, options.seed)


if __name__ == "__main__":
    main()
