"""Clauses of financial news with a known meaning, and the ways to say them.

The meaning of a clause is a product of signs: whether the quantity is good (profit) or bad (costs), whether it moved up
or down, and whether the movement is denied ("did not fall") or fell short of what was expected ("fell less than
forecast"), either of which turns the news round. "More than expected" turns nothing. A clause in which nothing moved,
or nobody knows, is neutral. Most clauses are about a subject that simply gets better or worse (the outlook), so that
the sign of a clause can be learnt in one demonstration; which clause decides is what counting words cannot tell.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import IntEnum

from spectune.starter.sentence_words import EXPECTATIONS, MOVEMENTS, QUANTITIES, UNITS, Kind, Movement, Quantity


class Label(IntEnum):
    """The sentiment of a sentence, as the CSV writes it."""

    NEGATIVE = 0
    NEUTRAL = 1
    POSITIVE = 2


TWISTS = ("plain", "more", "denied", "less")
KINDS: dict[Kind, int] = {"tone": 70, "good": 18, "bad": 12}
"""How often a clause is about each kind of subject, per cent."""

SPECIAL_SHARE = 0.75
"""Of clauses about costs and debts: how often the verb is one that is said of nothing else."""

STILL = ("unchanged", "unknown")


@dataclass(frozen=True)
class Clause:
    """A quantity, a movement, and what is said of it: a twist, or that nothing moved or is known."""

    quantity: Quantity
    movement: Movement
    twist: str

    @property
    def label(self) -> Label:
        """The product of the signs, or neutral."""
        if self.twist in STILL:
            return Label.NEUTRAL
        good_news = self.quantity.good == self.movement.up
        return Label.POSITIVE if good_news != (self.twist in ("denied", "less")) else Label.NEGATIVE


def draw_clause(label: Label, random_: random.Random) -> Clause:
    """A clause with this meaning; quantity and twist are drawn freely, the movement then follows."""
    kind = random_.choices(list(KINDS), weights=list(KINDS.values()))[0]
    quantity = random_.choice([quantity for quantity in QUANTITIES if quantity.kind == kind])
    special = kind == "tone" or (kind == "bad" and random_.random() < SPECIAL_SHARE)
    movements = [movement for movement in MOVEMENTS if movement.of == (kind if special else None)]
    if label is Label.NEUTRAL:
        return Clause(quantity, random_.choice(movements), random_.choice(STILL))
    twist = random_.choices(TWISTS, weights=(82, 4, 10, 4))[0]
    fitting = [movement for movement in movements if Clause(quantity, movement, twist).label is label]
    return Clause(quantity, random_.choice(fitting), twist)


def say(clause: Clause, random_: random.Random) -> str:
    """The clause in words, without capital or full stop; one of several wordings."""
    quantity, movement = clause.quantity, clause.movement
    subject = f"{quantity.name} {_place(random_)}" if random_.random() < 0.15 else quantity.name
    expectation = random_.choice(EXPECTATIONS)
    wordings = {
        "plain": (f"{subject} {movement.past}", f"{subject} clearly {movement.past}"),
        "more": (f"{subject} {movement.past} more than {expectation}",),
        "denied": (f"{subject} did not {movement.infinitive}", f"{subject} did not {movement.infinitive} at all"),
        "less": (f"{subject} {movement.past} less than {expectation}",),
        "unchanged": (f"{subject} {quantity.was} unchanged", f"there was no change in {subject}"),
        "unknown": (
            f"it is unclear how {subject} did",
            f"nobody knows how {subject} did",
        ),
    }
    return random_.choice(wordings[clause.twist])


def _place(random_: random.Random) -> str:
    return f"at {random_.choice(UNITS)}"
