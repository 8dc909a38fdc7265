"""The pages of benchmarks/: their tables are what the raw figures say, and their form is the agreed one."""

import re
from pathlib import Path

import pages
import pytest
from studies.words import BENCHMARKS

TEXT = {page.relative_to(BENCHMARKS).as_posix(): page.read_text(encoding="utf-8") for page in pages.PAGES}
INDEX = TEXT["README.md"]
EVERY = pytest.mark.parametrize("page", TEXT)


def linked(page: str) -> list[Path]:
    """The files of the repository that a page links or shows."""
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT[page])
    return [(BENCHMARKS / page).parent / target for target in targets if not target.startswith("http")]


def verdicts(page: str) -> dict[str, str]:
    """The text under each claim, a heading of the third level."""
    parts = re.split(r"^(#+ .*)$", TEXT[page], flags=re.MULTILINE)[1:]
    return {head: text for head, text in zip(parts[::2], parts[1::2], strict=True) if head.startswith("### ")}


@EVERY
def test_tables_are_what_the_raw_figures_say(page):
    assert pages.filled(TEXT[page]) == TEXT[page], "run: python benchmarks/pages.py"


def test_every_table_and_picture_stands_on_a_page():
    marks = re.findall(r"<!-- table: (\S+) -->", "".join(TEXT.values()))
    assert sorted(marks) == sorted(pages.TABLES)
    shown = {path.resolve() for page in TEXT for path in linked(page)}
    assert {BENCHMARKS / name for name in pages.PICTURES} <= shown


@EVERY
def test_links_and_pictures_are_there(page):
    assert [path for path in linked(page) if not path.exists()] == []


@EVERY
def test_links_into_a_page_meet_a_heading(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", TEXT[page]):
        text = ((BENCHMARKS / page).parent / target).read_text(encoding="utf-8") if target else TEXT[page]
        heads = [
            re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        ]
        assert anchor in heads, target


@EVERY
def test_no_table_has_more_than_six_columns(page):
    rules = [line for line in TEXT[page].splitlines() if re.match(r"\|[-:|]+\|$", line)]
    assert max((line.count("|") - 1 for line in rules), default=0) <= 6


@EVERY
def test_a_verdict_has_at_most_three_sentences(page):
    for claim, text in verdicts(page).items():
        sentences = re.findall(r"[.?!](?=[\s)*]|$)", text)
        assert 1 <= len(sentences) <= 3, claim


def test_the_index_is_short_and_names_every_page():
    assert len(INDEX.splitlines()) <= 120
    studies = {path.resolve() for path in linked("README.md")}
    assert {page.parent for page in pages.PAGES if page.parent.parent == BENCHMARKS} == {path.parent for path in studies} - {
        BENCHMARKS
    }


def test_figures_of_the_index_stand_on_the_pages():
    rows = re.findall(r"^\| \[[^]]*\]\(([^)#]+)[^)]*\) \|.*\|(.*)\|$", INDEX, re.MULTILINE)
    assert len(rows) > 10
    for page, words in rows:
        for number in re.findall(r"\d+\.\d+|\*\*\d+\*\*", words):
            assert re.search(rf"(?<![\d.]){re.escape(number.strip('*'))}(?![\d])", TEXT[page]), f"{number} of {page}"
