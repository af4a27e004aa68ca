"""The HTML page: self-contained, safe, accessible."""

import base64
import hashlib
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from tests.reporting.conftest import HOSTILE

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Elements of a page in order, and the text of each; unbalanced tags are noted."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.unbalanced, self.text = [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, len(self.elements) - 1))

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag:
            self.open.pop()
        else:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        for _, index in self.open:
            self.text[index] = self.text.get(index, "") + data

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]

    def texts(self, tag):
        return [self.text.get(index, "") for index, (name, _) in enumerate(self.elements) if name == tag]


@pytest.fixture(scope="module", params=["plain", "hostile"])
def page(request, files, hostile_files):
    chosen = files if request.param == "plain" else hostile_files
    return Page(chosen["report.html"].decode())


def test_it_is_well_formed(page):
    assert page.unbalanced == []
    assert page.open == []


def test_it_asks_for_nothing_from_outside(page):
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/svg+xml;base64,")), attributes
    assert "url(" not in "".join(page.texts("style"))
    assert "@import" not in "".join(page.texts("style"))


def test_nothing_can_run(page):
    assert page.all("script", "iframe", "object", "embed", "form", "base") == []
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), attributes


def test_the_policy_allows_its_own_style_and_no_more(page):
    policies = [item["content"] for item in page.all("meta") if item.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.texts("style")[0].encode()).digest()).decode()
    assert policies == [
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    ]
    first = [tag for tag, _ in page.elements if tag in {"meta", "style"}][:2]
    assert first == ["meta", "meta"]  # character set and policy come before anything they govern


def test_it_can_be_read_aloud(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if tag in {"h1", "h2", "h3", "h4"}]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(len(item["alt"]) > 20 for item in page.all("img"))
    assert page.all("img")
    assert all(item["scope"] in {"row", "col"} for item in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 10
    assert len(page.all("figcaption")) == len(page.all("figure")) > 5


def test_every_link_has_a_target_and_every_target_is_one(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [item["href"].removeprefix("#") for item in page.all("a")]
    targets += [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert set(targets) <= set(ids)
    assert page.all("a")[0]["class"] == "skip"


def test_every_section_is_there(page):
    assert [item["id"] for item in page.all("section")][:2] == ["summary", "flow"]
    assert len(page.all("section")) == 13
    assert "Research use. Not a medical device." in page.texts("header")[0]


def test_hostile_words_are_shown_as_they_are(hostile_files, hostile_report):
    text = hostile_files["report.html"].decode()
    shown = Page(text).texts("main")[0]
    for words in hostile_report.text.limitations:
        assert words in shown
    assert "{{ 7 * 7 }}" in shown
    assert "<script>alert" not in text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in text
    assert "\x07" not in text
    assert len(hostile_report.text.limitations) == len(HOSTILE)
