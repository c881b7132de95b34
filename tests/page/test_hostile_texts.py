"""No name and no text of an example runs a script, and nothing is fetched for it."""

from tests.page.hostile import HOSTILE


def test_no_script_runs(visit, hostile):
    visited = visit(hostile)
    page = visited.page
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    for select in page.locator("select:visible").all():
        for value in select.locator("option").all()[:4]:
            select.select_option(value.get_attribute("value") or value.text_content())
    for heading in page.locator("#points th button").all():
        heading.click()
    page.mouse.wheel(0, 800)
    for row in page.locator(".plot .r:visible, .plot .m:visible").all()[:6]:
        row.scroll_into_view_if_needed()
        box = row.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.evaluate("window.attacked") is None
    assert visited.messages == []
    assert visited.requests == [page.url]
    assert page.locator("script").count() == 2 and page.locator("main img").count() == 0


def test_the_texts_are_shown_as_they_are(visit, hostile):
    text = visit(hostile).page.locator("main").inner_text()
    for shown in HOSTILE[:7]:
        assert shown in text


def test_saved_figures_hold_no_script(visit, hostile):
    page = visit(hostile).page
    with page.expect_download() as event:
        page.locator("#critical button", has_text="SVG").click()
    assert "<script" not in event.value.path().read_text()
