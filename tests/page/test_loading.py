"""The page opens without a message and a request, on every screen and in both colour schemes."""

import pytest

from tests.page.conftest import SIZES


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["single", "several"])
def test_it_fits_the_screen_and_the_console_stays_empty(visit, request, name, size, scheme):
    visited = visit(request.getfixturevalue(name), SIZES[size], scheme)
    page = visited.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.classList.contains('script')")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) > 380) == (scheme == "light")
    assert visited.messages == []
    assert visited.requests == [page.url]


@pytest.mark.parametrize("name", ["single", "several"])
def test_no_link_is_dead(visit, request, name):
    page = visit(request.getfixturevalue(name)).page
    links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.getAttribute('href'))")
    assert links
    for link in links:
        assert link.startswith("#") and page.locator(f"[id='{link[1:]}']").count() == 1


def test_what_is_wide_scrolls_inside_of_its_own_container(visit, several):
    page = visit(several, SIZES["phone"]).page
    overflowing = """() => [...document.querySelectorAll('main *')].filter(node => {
        const box = node.getBoundingClientRect();
        return box.width > 0 && box.right > innerWidth + 1 && !node.closest('.wide, .plots, .image');
    }).map(node => node.outerHTML.slice(0, 200))"""
    assert page.evaluate(overflowing) == []
    assert page.evaluate("[...document.querySelectorAll('.wide')].some(box => box.scrollWidth > box.clientWidth)")


def test_no_text_of_a_chart_lies_over_another_one(visit, several):
    """Marks may cross, but labels do not collide, also with the larger letters of a phone."""
    collisions = """() => {
        const found = [];
        for (const plot of document.querySelectorAll('svg.plot')) {
            const boxes = [...plot.querySelectorAll('text')].filter(text => !text.hasAttribute('transform'))
                .map(text => [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.width > 0);
            for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
                const [a, b] = [boxes[i][1], boxes[j][1]];
                const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                if (wide > 1 && high > 4) found.push([plot.closest('figure').id, boxes[i][0], boxes[j][0]]);
            }
        }
        return found;
    }"""
    for width in SIZES.values():
        assert visit(several, width).page.evaluate(collisions) == []
