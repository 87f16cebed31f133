"""The sentence frames of each split; no frame serves both.

Slots: ``{main}`` the clause that decides, ``{side}`` a clause that does not (the one conceded with although, while,
despite the fact that, or overtaken by but, however, yet), ``{company}``, ``{period}``.
"""

from __future__ import annotations

from spectune.starter.sentence_words import Split

SINGLE: dict[Split, tuple[str, ...]] = {
    "train": (
        "{main} in {period}, {company} said.",
        "In {period}, {main}, according to {company}.",
        "{company} said that {main} in {period}.",
        "{company} reported on Monday that {main}.",
        "{main}, {company} told investors on Friday.",
        "For {period}, the report of {company} says that {main}.",
        "News from {company}: {main} in {period}.",
        "The chairman of {company} said that {main}.",
        "{main} over {period}, a statement from {company} shows.",
        "As {company} announced today, {main}.",
        "Over {period}, as {company} wrote to its owners, {main}.",
        "Figures for {period} show that {main} ({company}).",
        "{company}, in its report on {period}: {main}.",
        "According to the letter of {company}, {main} during {period}.",
    ),
    "validation": (
        "{company} told investors that {main} in {period}.",
        "During {period}, {main}, a report from {company} shows.",
        "On Monday {company} announced that {main}.",
        "{main}, according to the chairman of {company}.",
        "In its letter on {period}, {company} wrote that {main}.",
        "{company} today: {main} over {period}.",
    ),
}

CONTRAST: dict[Split, tuple[str, ...]] = {
    "train": (
        "{company} said that {side} in {period}, but {main}.",
        "Although {side}, {main}, {company} said.",
        "{main}, although {side}, {company} reported on Monday.",
        "In {period}, {side}, but {main}, according to {company}.",
        "While {side} in {period}, {main}, the report of {company} says.",
        "{company} told investors on Friday that {main}, even though {side}.",
        "{side}, {company} said; however, {main}.",
        "Even though {side} over {period}, {main}, {company} announced.",
        "News from {company}: {side}, yet {main}.",
        "{main} in {period}, while {side}, a statement from {company} shows.",
        "The chairman of {company} said that although {side}, {main}.",
        "As {company} announced today, {main}, although {side}.",
        "Figures for {period} show that {side}; however, {main} ({company}).",
        "According to the letter of {company}, {side} during {period}, yet {main}.",
    ),
    "validation": (
        "During {period}, {main}, although {side}, {company} announced.",
        "{company} reported on Friday that {side}, but {main}.",
        "Although {side} in {period}, {main}, a report from {company} shows.",
        "The letter of {company} says that {main}, even though {side}.",
        "{side} over {period}; however, {main}, {company} told investors.",
        "On Monday {company} said that while {side}, {main}.",
        "{company} today: {side}, yet {main}.",
        "In its report on {period}, {company} wrote that even though {side}, {main}.",
    ),
}
