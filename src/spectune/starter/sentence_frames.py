"""The sentence frames of each split; no frame serves both.

Slots: ``{main}`` the clause that decides, ``{side}`` a clause that does not (the one conceded with although, while,
despite the fact that, or overtaken by but, however, yet), ``{company}``, ``{period}``.
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

CONTRAST: dict[Split, tuple[str, ...]] = {
    "train": (
        "{company} said that {side}, but {main}.",
        "Although {side}, {main}, {company} said.",
        "{main}, although {side}, {company} wrote.",
        "{side} at {company}, but {main}.",
        "While {side} {period}, {main} at {company}.",
        "{company}: {main}, even though {side}.",
        "{side} {period}; however, {main}.",
        "Even though {side}, {main} {period}.",
        "News from {company}: {side}, yet {main}.",
        "{main} {period}, while {side}.",
        "{company} wrote that although {side}, {main}.",
        "At {company}, {main}, although {side}.",
        "{side} at {company}; however, {main}.",
        "{company} said that {side} {period}, yet {main}.",
    ),
    "validation": (
        "{main} {period}, although {side}, {company} said.",
        "The head of {company} wrote that {side}, but {main}.",
        "Although {side} at {company}, {main}.",
        "{company} said that {main}, even though {side}.",
        "{company}: {side}; however, {main}.",
        "{company} said that while {side}, {main}.",
        "At {company}, {side}, yet {main}.",
        "Even though {side} {period}, {main}, {company} said.",
    ),
}
