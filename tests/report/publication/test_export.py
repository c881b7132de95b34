"""Figures are written in every format, with captions, and replace no other files."""

import json
import re
import xml.etree.ElementTree as ET
import zlib
from dataclasses import replace

import pandas as pd
import pytest

from sparsedial.errors import SpecError, StorageError
from sparsedial.report.publication.catalog import PublicationFigures, make_publication_figures
from sparsedial.report.publication.export import export_figures
from sparsedial.report.publication.reference_rows import References
from tests.support.report_sample import sample


@pytest.fixture(scope="module")
def sites():
    """The figure of the sites alone, and a kind that is missing."""
    drawn = make_publication_figures(sample(points=2, layers=1), References())
    return PublicationFigures(drawn.figures[-1:], {"experts": "no experts"})


def test_all_formats_and_the_captions_are_written(sites, tmp_path):
    paths = export_figures(sites, tmp_path / "new", ["svg", "pdf", "png"], pd.DataFrame({"value": [0.5]}))
    assert [path.name for path in paths] == ["sites.svg", "sites.pdf", "sites.png", "reference.csv"]
    assert all(path.is_file() for path in paths)
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    index = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert index["figures"][0]["files"] == ["sites.svg", "sites.pdf", "sites.png"]
    assert index["figures"][0]["caption"].startswith("Critical sparsity of each site")
    assert index["not_drawn"] == {"experts": "no experts"}


def test_a_pdf_embeds_its_fonts(sites, tmp_path):
    (path,) = export_figures(sites, tmp_path, ["pdf"])
    content = path.read_bytes()
    text = content
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
        try:
            text += zlib.decompress(stream)
        except zlib.error:
            continue
    fonts = set(re.findall(rb"/BaseFont\s*/([\w+-]+)", text))
    assert fonts and all(re.match(rb"[A-Z]{6}\+", font) for font in fonts)  # the prefix of an embedded subset
    assert re.search(rb"/FontFile[23]?\b", text)


def test_an_svg_holds_its_text_within_its_bounds(sites, tmp_path):
    (path,) = export_figures(sites, tmp_path, ["svg"])
    root = ET.parse(path).getroot()
    assert "critical sparsity" in "".join(root.itertext())
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", path.read_text())


def test_an_earlier_export_is_replaced_and_other_files_are_not(sites, tmp_path):
    export_figures(sites, tmp_path / "a", ["svg"])
    export_figures(sites, tmp_path / "a", ["svg"])
    (tmp_path / "b").mkdir()
    mine = tmp_path / "b" / "sites.svg"
    mine.write_text("mine")
    with pytest.raises(StorageError, match=r"sites\.svg: exists and is not of an earlier export"):
        export_figures(sites, tmp_path / "b", ["svg"])
    assert mine.read_text() == "mine" and [path.name for path in (tmp_path / "b").iterdir()] == ["sites.svg"]


@pytest.mark.parametrize(
    ("formats", "message"), [(["pdff"], "unknown format 'pdff'.*did you mean 'pdf'"), ([], "no format")]
)
def test_unknown_formats_are_errors(sites, tmp_path, formats, message):
    with pytest.raises(SpecError, match=message):
        export_figures(sites, tmp_path, formats)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_a_file_is_an_error(sites, tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        export_figures(replace(sites, not_drawn={}), tmp_path / "x", ["svg"])
