"""Without scripts, the page still has its answer, its charts and its tables."""


def test_answer_charts_and_tables_are_shown(visit, several):
    page = visit(several, java_script_enabled=False).page
    assert page.locator(".answer:visible").count() == 4
    assert page.locator("section.of-model:visible").count() == 4
    assert page.locator("svg.plot:visible").count() == page.locator("svg.plot").count() > 10
    assert page.locator(".table-block:visible").count() > 3
    assert page.locator("button, select").count() == 0
    assert page.locator("svg.plot title").count() > 20  # the browser shows them as tooltips
