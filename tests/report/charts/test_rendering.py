"""Charts are saved as SVG and as PNG."""

from sparsedial.report.charts.rendering import save_chart
from sparsedial.report.charts.site_comparison import draw_sites


def test_both_formats_are_written(results, tmp_path):
    save_chart(draw_sites(results.critical, 0.99), tmp_path / "deep" / "critical.v1")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["critical.v1.png", "critical.v1.svg"]
    assert (tmp_path / "deep" / "critical.v1.png").read_bytes().startswith(b"\x89PNG")
