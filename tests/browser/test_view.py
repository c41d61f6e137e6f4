"""How the fleet's page looks, and what its address says, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from .conftest import DESKTOP, Open
from .looking import act, cells, ids, until, violations

Full = Callable[[int], str]
SOME: Final = 400
WIDE: Final = (1600, 900)
PHONE: Final = (390, 844)
MARKUP: Final = '<img src=x onerror="alert(1)"><b>&amp;</b>\u202e'

#: What hides a part of its text, or would do so with a longer one.
_CUT: Final = """() => [...document.querySelectorAll("#head *, #rows *")].filter(each => {
    const { overflowX, textOverflow } = getComputedStyle(each);
    return textOverflow === "ellipsis"
        || overflowX !== "visible" && each.scrollWidth > each.clientWidth + 1;
}).map(each => each.outerHTML)"""
#: The edges of a heading's word and of what stands below it, as far as it can be seen.
_EDGES: Final = """() => {
    const box = node => {
        const range = document.createRange();
        range.selectNodeContents(node);
        return range.getBoundingClientRect();
    };
    const cells = document.querySelectorAll("#rows tr:first-child td");
    return [...document.querySelectorAll("#head th")].filter(head => head.offsetWidth).map(head => {
        const button = head.firstChild;
        const word = [...button.childNodes].find(node => node.nodeType === Node.TEXT_NODE);
        const cell = cells[head.cellIndex];
        const badge = cell.querySelector(".badge");
        const inner = cell.querySelector("a, span") ?? cell;
        const text = badge ? badge.getBoundingClientRect() : box(inner);
        const top = box(word);
        return { name: word.data, number: cell.classList.contains("number"),
            left: top.left - text.left, right: top.right - text.right };
    });
}"""


@pytest.mark.parametrize("size", [DESKTOP, WIDE])
def test_nothing_is_cut_and_the_reason_gets_the_room(
    open_page: Open, full: Full, size: tuple[int, int]
) -> None:
    page = open_page(full(SOME), size=size)
    assert page.evaluate(_CUT) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    scroll = page.locator("#scroll")
    assert scroll.evaluate("box => box.scrollWidth <= box.clientWidth")
    # All of an identifier is in one line.
    lines = "links => links.map(each => each.getBoundingClientRect().height)"
    assert max(page.locator("#rows td.id a").evaluate_all(lines)) < 25
    widths = page.locator("#head th").evaluate_all("heads => heads.map(head => head.offsetWidth)")
    reason = widths.pop(2)
    assert reason >= max(widths)
    if size == WIDE:  # one line each
        heights = "spans => spans.map(each => each.getBoundingClientRect().height)"
        assert max(page.locator("#rows td.result span").evaluate_all(heights)) < 25


@pytest.mark.parametrize("size", [DESKTOP, WIDE])
def test_long_texts_of_strangers_are_whole(
    open_page: Open, full: Full, size: tuple[int, int]
) -> None:
    def change(item: dict[str, Any]) -> None:
        item.update(id="i" * 255, reason="r" * 200, agent="a" * 64)

    prepare = answering(rows=lambda items: change(items[0]))
    page = open_page(full(SOME), size=size, prepare=prepare)
    assert page.evaluate(_CUT) == []
    assert page.locator("#scroll").evaluate("box => box.scrollWidth <= box.clientWidth")
    inside = """cell => {
        const text = (cell.querySelector("a, span") ?? cell).getBoundingClientRect();
        const box = cell.getBoundingClientRect();
        return text.left >= box.left && text.right <= box.right;
    }"""
    for cell in page.locator("#rows tr:first-child td").all():
        assert cell.evaluate(inside)


def test_headings_stand_over_their_columns(open_page: Open, full: Full) -> None:
    page = open_page(full(SOME), size=WIDE)
    for name in ("State", "Kept"):
        if name != "State":
            act(page, page.get_by_role("button", name=name).click)
        for edge in page.evaluate(_EDGES):
            assert abs(edge["right" if edge["number"] else "left"]) <= 1, edge
        gap = page.locator("th[aria-sort] button").evaluate(
            """button => {
                const arrow = button.querySelector(".arrow").getBoundingClientRect();
                const range = document.createRange();
                range.selectNode([...button.childNodes].find(each => each.nodeType === 3));
                const word = range.getBoundingClientRect();
                return Math.max(arrow.left - word.right, word.left - arrow.right);
            }"""
        )
        assert 3 <= gap < 12


_CONTRAST: Final = """badge => {
    const light = colour => {
        const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
        const [x, y, z] = [r, g, b].map(each => each / 255)
            .map(each => each <= 0.04 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
        return a === 0 ? null : 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const card = light(getComputedStyle(document.getElementById("clusters")).backgroundColor);
    const own = light(getComputedStyle(badge).backgroundColor) ?? card;
    return (Math.max(card, own) + 0.05) / (Math.min(card, own) + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_silence_stands_out_and_drift_does_not(open_page: Open, full: Full, scheme: str) -> None:
    page = open_page(f"{full(SOME)}/?state=silent,drifting", scheme)
    assert page.locator(".badge.silent").first.evaluate(_CONTRAST) > 4.5
    assert page.locator(".badge.drifting").first.evaluate(_CONTRAST) < 1.5
    weight = "cell => Number(getComputedStyle(cell).fontWeight)"
    row = page.locator("#rows tr", has=page.locator(".badge.silent")).first
    assert row.locator("td.uploaded").evaluate(weight) >= 600
    assert row.locator("td:nth-child(7)").evaluate(weight) == 400
    assert "soft" in (row.locator("td:nth-child(7)").get_attribute("class") or "")


def test_tiles_and_chips_are_links_to_clusters(open_page: Open, full: Full) -> None:
    url = full(SOME)
    page = open_page(url)
    page.evaluate("window.marker = true")
    tile = page.get_by_role("link", name="Refused now")
    assert tile.get_attribute("href") == "?state=refused"
    figure = tile.locator(".figure").inner_text()
    act(page, tile.click)
    assert page.url == f"{url}/?state=refused"
    assert set(cells(page, 2)) == {"refused"}
    expect(page.locator("#count")).to_have_text(f"{figure} of 400")
    expect(page.locator("#state")).to_have_value("refused")
    expect(tile).to_have_attribute("aria-current", "true")
    page.get_by_role("link", name="Silent now").focus()
    act(page, lambda: page.keyboard.press("Enter"))
    assert set(cells(page, 2)) == {"silent"}
    assert tile.get_attribute("aria-current") is None
    act(page, page.get_by_role("link", name="drifting").click)
    assert set(cells(page, 2)) == {"drifting"}
    act(page, page.locator("#problems a", has_text="502").click)
    assert set(cells(page, 2)) == {"failed"}
    act(page, page.get_by_role("link", name="show all").click)
    assert page.url == f"{url}/"
    expect(page.locator("#count")).to_have_text("400")
    assert page.evaluate("window.marker")  # nothing was loaded anew
    # Each of them is an address that can be sent.
    for link in page.locator(".tile a, #problems a").all():
        href = link.get_attribute("href")
        assert href
        other = open_page(f"{url}/{href}")
        assert urlsplit(other.url).query == href.removeprefix("?")
        assert ids(other)
        other.close()


def test_the_address_says_what_is_shown(open_page: Open, full: Full) -> None:
    url = full(SOME)
    page = open_page(url)
    assert urlsplit(page.url).query == ""
    act(page, page.get_by_role("button", name="Kept").click)
    assert urlsplit(page.url).query == "sort=kept&order=desc"
    act(page, page.get_by_role("button", name="Next").click)
    assert urlsplit(page.url).query == "sort=kept&order=desc&page=2"
    second = ids(page)
    page.reload()
    page.wait_for_selector("body[data-shown]")
    assert ids(page) == second
    expect(page.locator("#page")).to_have_text("page 2 of 8")
    act(page, lambda: page.select_option("#state", "silent"))
    assert urlsplit(page.url).query == "state=silent&sort=kept&order=desc"
    box = page.get_by_label("Find")
    for part in ("0", "00", "000"):  # what is typed is one step back
        act(page, partial(box.fill, part))
    assert parse_qs(urlsplit(page.url).query)["q"] == ["000"]
    act(page, page.go_back)
    assert urlsplit(page.url).query == "state=silent&sort=kept&order=desc"
    expect(box).to_have_value("")
    act(page, page.go_back)
    assert ids(page) == second
    expect(page.locator("#state")).to_have_value("")
    act(page, page.go_back)
    act(page, page.go_back)
    assert page.url == f"{url}/"
    assert page.locator("th[aria-sort]").inner_text().startswith("State")
    act(page, page.go_forward)
    assert page.locator("th[aria-sort]").inner_text().endswith("Kept")


def test_what_was_typed_is_not_lost_by_a_click(open_page: Open, full: Full) -> None:
    page = open_page(full(SOME))
    page.evaluate("""() => {
        const box = document.getElementById("find");
        box.value = "00";
        box.dispatchEvent(new Event("input"));
        document.querySelector("#head button").click();
    }""")
    until(page, "() => location.search === '?q=00&sort=id'")
    expect(page.get_by_label("Find")).to_have_value("00")


def test_a_cluster_opens_and_closes_over_what_is_shown(open_page: Open, full: Full) -> None:
    page = open_page(f"{full(SOME)}/?state=failed")
    shown = page.evaluate("document.body.dataset.shown")
    failed = ids(page)
    page.locator("#rows a").first.click()
    expect(page.locator("dialog[open]")).to_be_visible()
    assert urlsplit(page.url).query == "state=failed"
    page.keyboard.press("Escape")
    until(page, "() => !location.hash")
    assert urlsplit(page.url).query == "state=failed"
    page.go_back()
    expect(page.locator("dialog[open]")).to_be_visible()
    page.go_back()
    expect(page.locator("dialog[open]")).to_have_count(0)
    assert ids(page) == failed
    assert page.evaluate("document.body.dataset.shown") == shown  # nothing was asked for


@pytest.mark.parametrize(
    ("query", "states", "becomes"),
    [
        ("state=refused,odd&sort=nonsense&order=up&page=-1&x=y", {"refused"}, None),
        ("state=odd&page=1e3&limit=9999", None, None),
        ("state=failed&page=999999999999", {"failed"}, None),
        ("state=failed&page=99", {"failed"}, "state=failed"),
        ("state=drifting,silent", {"silent", "drifting"}, None),
        ("state=ok,drifting,silent,failed,refused&sort=__proto__", None, None),
        ("%ff=%fe&q=%00&state=%", None, None),
        ("reason=upstream&agent=x&odd=y", None, "reason=upstream&agent=x&odd=y"),
    ],
)
def test_what_an_address_says_that_is_not_known_is_left_out(
    open_page: Open, full: Full, query: str, states: set[str] | None, becomes: str | None
) -> None:
    page = open_page(f"{full(SOME)}/?{query}")
    if states is not None:
        assert set(cells(page, 2)) <= states
        assert ids(page)
    assert page.locator("#live-text").inner_text() in ("live", "connecting")
    if becomes is not None:
        until(page, "query => location.search === query", becomes and f"?{becomes}")


def test_texts_in_an_address_are_text(open_page: Open, full: Full) -> None:
    page = open_page(f"{full(SOME)}/?{urlencode({'q': MARKUP * 20, 'state': MARKUP})}")
    expect(page.get_by_label("Find")).to_have_value((MARKUP * 20)[:255])
    expect(page.locator("#nothing")).to_be_visible()
    assert page.locator("main img, main b:not(#problems b)").count() == 0


def test_without_clusters_there_are_no_headings(open_page: Open, full: Full, axe: str) -> None:
    url = full(SOME)
    page = open_page(f"{url}/?state=refused&q=nowhere")
    expect(page.get_by_text("No cluster is like that.")).to_be_visible()
    for orphan in ("#head", "#table", "#pager"):
        expect(page.locator(orphan)).to_be_hidden()
    assert violations(page, axe) == []
    act(page, page.get_by_role("link", name="Show all clusters").click)
    expect(page.locator("#head")).to_be_visible()
    expect(page.locator("#pager")).to_be_visible()
    expect(page.locator("#nothing")).to_be_hidden()
    assert page.url == f"{url}/"


def test_on_a_phone_a_cluster_is_in_sight(open_page: Open, full: Full) -> None:
    page = open_page(full(SOME), size=PHONE)
    expect(page.locator("#problems")).to_be_visible()
    boxes = [tile.bounding_box() for tile in page.locator(".tile").all()]
    tops = [box["y"] for box in boxes if box]
    assert len(tops) == 6
    assert all(tops.count(top) == 2 for top in tops)
    first = page.locator("#rows tr").first.bounding_box()
    assert first
    assert first["y"] + first["height"] <= PHONE[1]
    assert page.evaluate("scrollY") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# --- What only some servers tell ------------------------------------------------------------------

#: What such a server adds to its totals.
_MORE: Final[dict[str, Any]] = {
    "database": {"behind_since": 1795431803.5, "dropped": 3},
    "replica": {"name": f"a{MARKUP}", "version": "1.2.3", "since": 1795430000},
    "replicas": [
        {"name": f"a{MARKUP}", "version": "1.2.3", "last_seen": 1, "attempts_per_minute": 1234.5},
        {"name": "b", "version": MARKUP, "last_seen": 2, "attempts_per_minute": 0},
    ],
    "unknown_claims": [
        {"id": f"{index}{MARKUP}", "at": 9, "status": 401, "count": index, "reason": MARKUP}
        for index in range(1000, 1100)
    ],
    "filters": ["reason", "agent"],
}


def answering(
    fleet: dict[str, Any] | None = None,
    rows: Callable[[list[dict[str, Any]]], object] = lambda items: None,
    asked: list[dict[str, str]] | None = None,
) -> Callable[[Page], None]:
    """Return a function that adds fields to the server's answers, and notes the requests."""

    def totals(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=json.dumps({**answer.json(), **(fleet or {})}))

    def clusters(route: Route) -> None:
        url = urlsplit(route.request.url)
        fields = dict(parse_qsl(url.query, keep_blank_values=True))
        if asked is not None:
            asked.append(dict(fields))
        for name in ("reason", "agent"):
            fields.pop(name, None)
        answer = route.fetch(url=url._replace(query=urlencode(fields)).geturl())
        value = answer.json()
        rows(value["items"])
        route.fulfill(response=answer, body=json.dumps(value))

    def prepare(page: Page) -> None:
        page.route("**/api/v1/fleet", totals)
        page.route("**/api/v1/clusters?*", clusters)

    return prepare


def _claimed(items: list[dict[str, Any]]) -> None:
    for count, item in enumerate(items):
        item["claims"] = count


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_a_database_and_replicas_add(
    open_page: Open, full: Full, axe: str, scheme: str, size: tuple[int, int]
) -> None:
    page = open_page(full(SOME), scheme, size, prepare=answering(_MORE, _claimed))
    expect(page.locator("#behind")).to_contain_text(
        "The database has been behind since 2026-11-23 11:03:23 UTC: what is shown may be old"
    )
    expect(page.locator("#replica")).to_have_text(
        f"answered by a{MARKUP}, version 1.2.3, records since 2026-11-23 10:33:20 UTC"
    )
    expect(page.locator("#replicas tbody tr")).to_have_count(2)
    expect(page.locator("#replicas")).to_contain_text("1,234.5")
    claims = page.locator("#claims")
    expect(claims.locator("tbody tr")).to_have_count(20)
    expect(claims).to_contain_text(MARKUP)
    expect(claims).to_contain_text("and 80 more")
    marks = page.locator("#rows .claims")
    expect(marks.nth(0)).to_be_hidden()
    expect(marks.nth(1)).to_have_text("1 refused claim")
    expect(marks.nth(2)).to_have_text("2 refused claims")
    assert "Anybody can claim" in (marks.nth(1).get_attribute("title") or "")
    assert page.locator("main img, main b:not(#problems b), footer b").count() == 0
    assert violations(page, axe) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for box in page.locator("main .scroll").all():
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_without_them_nothing_is_added(open_page: Open, full: Full) -> None:
    nothing = {"database": {"behind_since": None}, "unknown_claims": [], "filters": []}
    # An address of a server that can look for reasons.
    page = open_page(f"{full(SOME)}/?reason=upstream&agent=x", prepare=answering(nothing))
    until(page, "() => location.search === ''")
    expect(page.locator("#problems")).to_be_visible()
    for part in ("#behind", "#replica", "#replicas", "#claims", "#reason", "#agent"):
        expect(page.locator(part)).to_be_hidden()
    expect(page.locator("#rows .claims:visible")).to_have_count(0)


def test_reasons_and_agents_are_looked_for_where_that_can_be(open_page: Open, full: Full) -> None:
    asked: list[dict[str, str]] = []
    prepare = answering(_MORE, asked=asked)
    page = open_page(f"{full(SOME)}/?reason=up+stream", prepare=prepare)
    assert asked[0]["reason"] == "up stream"
    expect(page.get_by_label("Reason")).to_have_value("up stream")
    act(page, lambda: page.get_by_label("Agent", exact=True).fill("curl/&"))
    assert asked[-1]["agent"] == "curl/&"
    assert asked[-1]["reason"] == "up stream"
    assert urlsplit(page.url).query == "reason=up+stream&agent=curl%2F%26"
    act(page, page.go_back)
    expect(page.get_by_label("Agent", exact=True)).to_have_value("")
    act(page, page.get_by_role("link", name="show all").click)
    assert "reason" not in asked[-1]
