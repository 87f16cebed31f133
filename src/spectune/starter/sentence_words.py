"""The words of the bundled financial sentences. What a word means is fixed here, and is the same in both splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation"]


Kind = Literal["tone", "good", "bad"]
"""What a subject is: one that gets better or worse, or a quantity of which more is good, or bad."""


@dataclass(frozen=True)
class Quantity:
    """Something a company reports."""

    name: str
    kind: Kind
    plural: bool = False

    @property
    def good(self) -> bool:
        """Whether more of it is good news."""
        return self.kind != "bad"

    @property
    def was(self) -> str:
        """The past of "to be" that agrees with the name."""
        return "were" if self.plural else "was"


@dataclass(frozen=True)
class Movement:
    """A change, up or down, as past and infinitive; ``of`` names the only kind of subject it is said of."""

    past: str
    infinitive: str
    up: bool
    of: Kind | None = None


QUANTITIES = (
    Quantity("the outlook", "tone"),
    Quantity("the order book", "tone"),
    Quantity("trading", "tone"),
    Quantity("business", "tone"),
    Quantity("margins", "tone", plural=True),
    Quantity("profit", "good"),
    Quantity("revenue", "good"),
    Quantity("demand", "good"),
    Quantity("sales", "good", plural=True),
    Quantity("debt", "bad"),
    Quantity("waste", "bad"),
    Quantity("costs", "bad", plural=True),
    Quantity("losses", "bad", plural=True),
)

MOVEMENTS = (
    Movement("improved", "improve", up=True, of="tone"),
    Movement("strengthened", "strengthen", up=True, of="tone"),
    Movement("worsened", "worsen", up=False, of="tone"),
    Movement("weakened", "weaken", up=False, of="tone"),
    Movement("rose", "rise", up=True),
    Movement("grew", "grow", up=True),
    Movement("fell", "fall", up=False),
    Movement("dropped", "drop", up=False),
    Movement("mounted", "mount", up=True, of="bad"),
    Movement("narrowed", "narrow", up=False, of="bad"),
)

EXPECTATIONS = ("expected", "hoped", "planned", "feared")

COMPANIES: dict[Split, tuple[str, ...]] = {
    "train": ("Northfield", "Harbor", "Calder", "Mills", "Bright", "Kestrel", "Lowell", "Ridge", "Marlow", "Stone"),
    "validation": ("Northfield", "Calder", "Kestrel", "Marlow", "Summit", "Garnet", "Weaver"),
}

PERIODS = ("in March", "in May", "in June", "in July", "last year", "this year", "this summer", "last winter")

ASIDES = ("overall", "on the whole", "by all accounts", "in the end", "it seems", "as reported")

UNITS = ("home", "the main plant", "the new branch")
