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
    """A change, up or down: "rose", "rise", "a rise"."""

    past: str
    infinitive: str
    noun: str
    up: bool


QUANTITIES = (
    Quantity("profit", good=True, plural=False),
    Quantity("revenue", good=True, plural=False),
    Quantity("income", good=True, plural=False),
    Quantity("demand", good=True, plural=False),
    Quantity("sales", good=True, plural=True),
    Quantity("orders", good=True, plural=True),
    Quantity("debt", good=False, plural=False),
    Quantity("waste", good=False, plural=False),
    Quantity("costs", good=False, plural=True),
    Quantity("losses", good=False, plural=True),
    Quantity("delays", good=False, plural=True),
    Quantity("complaints", good=False, plural=True),
)

MOVEMENTS = (
    Movement("rose", "rise", "a rise", up=True),
    Movement("grew", "grow", "growth", up=True),
    Movement("climbed", "climb", "a climb", up=True),
    Movement("increased", "increase", "an increase", up=True),
    Movement("fell", "fall", "a fall", up=False),
    Movement("dropped", "drop", "a drop", up=False),
    Movement("decreased", "decrease", "a decrease", up=False),
    Movement("declined", "decline", "a decline", up=False),
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
