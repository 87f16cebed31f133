"""The words of the bundled financial sentences. What a word means is fixed here, and is the same in both splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class Quantity:
    """Something a company reports; ``good`` says whether more of it is good news."""

    name: str
    good: bool
    plural: bool

    @property
    def was(self) -> str:
        """The past of "to be" that agrees with the name."""
        return "were" if self.plural else "was"


@dataclass(frozen=True)
class Movement:
    """A change, up or down, as past and infinitive; ``of_bad`` marks the verbs said of costs and debts only."""

    past: str
    infinitive: str
    up: bool
    of_bad: bool = False


QUANTITIES = (
    Quantity("profit", good=True, plural=False),
    Quantity("revenue", good=True, plural=False),
    Quantity("income", good=True, plural=False),
    Quantity("demand", good=True, plural=False),
    Quantity("sales", good=True, plural=True),
    Quantity("debt", good=False, plural=False),
    Quantity("waste", good=False, plural=False),
    Quantity("costs", good=False, plural=True),
    Quantity("losses", good=False, plural=True),
)

MOVEMENTS = (
    Movement("rose", "rise", up=True),
    Movement("grew", "grow", up=True),
    Movement("climbed", "climb", up=True),
    Movement("fell", "fall", up=False),
    Movement("dropped", "drop", up=False),
    Movement("declined", "decline", up=False),
    Movement("mounted", "mount", up=True, of_bad=True),
    Movement("swelled", "swell", up=True, of_bad=True),
    Movement("eased", "ease", up=False, of_bad=True),
    Movement("narrowed", "narrow", up=False, of_bad=True),
)

EXPECTATIONS = ("expected", "forecast", "predicted", "planned", "analysts had expected", "the board had planned")

COMPANIES: dict[Split, tuple[str, ...]] = {
    "train": (
        "Northfield", "Harbor Foods", "Calder Steel", "Ostrava Mills", "Bright Line", "Kestrel Air", "Lowell Bank",
        "Ridge Motors", "Tamar Energy", "Velden Paper", "Marlow Shipping", "Quarry Stone", "Fenwick", "Aldous Glass",
    ),
    "validation": (
        "Northfield", "Calder Steel", "Kestrel Air", "Lowell Bank", "Tamar Energy", "Fenwick", "Summit Rail",
        "Hollin Textiles", "Garnet Oil", "Weaver and Sons",
    ),
}  # fmt: skip

PERIODS = (
    "the first quarter", "the second quarter", "the third quarter", "the last quarter", "the first half",
    "the second half", "the year to March", "the year to June", "the summer", "the winter",
)  # fmt: skip

UNITS = (
    "the northern unit",
    "the export arm",
    "the home market",
    "the retail chain",
    "the main plant",
    "the new branch",
)
