"""The sentence frames of each split; no frame serves both.

Slots: ``{main}`` the clause that decides, ``{side}`` a clause that does not (the one conceded with although, while,
despite the fact that, or overtaken by but, however, yet), ``{company}``, ``{period}``, ``{aside}``.
"""

from __future__ import annotations

from spectune.starter.sentence_words import Split

SINGLE: dict[Split, tuple[str, ...]] = {
    "train": (
        "{company} said that {main} {period}.",
        "{main} {period}, {company} said.",
        "{company}: {main} {period}.",
        "At {company}, {main}.",
        "{main} at {company} {period}.",
        "{company} wrote that {main}.",
        "{main}, said the head of {company}.",
        "News from {company}: {main}.",
    ),
    "validation": (
        "The head of {company} said that {main}.",
        "{main}, {company} wrote {period}.",
        "At {company}, {main} {period}.",
        "{company} said {period}: {main}.",
    ),
}

# Between a clause and its conjunction stands a period or a company, after the conjunction an aside: otherwise the pair
# of words at the joint ("weakened although") would tell which clause decides.
CONTRAST: dict[Split, tuple[str, ...]] = {
    "train": (
        "{company} said that {side} {period}, but {aside} {main}.",
        "Although {aside} {side} {period}, {main}, {company} said.",
        "{main} {period}, although {aside} {side}, {company} wrote.",
        "{side} at {company}, but {aside} {main}.",
        "While {aside} {side} {period}, {main} at {company}.",
        "{company}: {main} {period}, even though {aside} {side}.",
        "{side} {period}; however, {aside} {main}.",
        "Even though {aside} {side} at {company}, {main} {period}.",
        "News from {company}: {side} {period}, yet {aside} {main}.",
        "{main} at {company}, while {aside} {side}.",
        "{company} wrote that although {aside} {side} {period}, {main}.",
        "At {company}, {main} {period}, although {aside} {side}.",
        "{side} at {company}; however, {aside} {main}.",
        "{company} said that {main} {period}, while {aside} {side}.",
    ),
    "validation": (
        "{main} {period}, while {aside} {side}, {company} said.",
        "The head of {company} wrote that {side} {period}, but {aside} {main}.",
        "Although {aside} {side} at {company}, {main} {period}.",
        "{company} said that {main} {period}, even though {aside} {side}.",
        "{company}: {side} {period}; however, {aside} {main}.",
        "{company} said that while {aside} {side} {period}, {main}.",
        "At {company}, {side} {period}, yet {aside} {main}.",
        "{main} at {company}, although {aside} {side}.",
    ),
}
