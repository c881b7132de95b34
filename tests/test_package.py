"""The names of the package: imported when they are used, and complete."""

import subprocess
import sys

import numpy as np
import pytest

import sparsedial as sd


def test_every_name_can_be_imported_and_is_listed():
    assert set(sd.__all__) <= set(dir(sd))
    for name in sd.__all__:
        assert getattr(sd, name) is not None
    assert set(sd._ORIGINS) == set(sd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'mesure'"):
        sd.mesure  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, sparsedial; print({'torch', 'transformers', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_curves_from_points_and_their_average():
    first = sd.curve([(0.0, 0.5), (0.3, 0.5, 0.9), (0.5, 0.4, 0.8)])
    second = sd.curve([(0.0, 0.7), (0.4, 0.7, 0.9), (0.6, 0.5, 0.8)])
    average = sd.task_average([first, second])
    np.testing.assert_allclose(average.sparsity, [0.35, 0.55])
    assert isinstance(first, sd.Curve)
    assert isinstance(sd.critical_sparsity(average), sd.CriticalSparsity)


def test_short_text_forms():
    curve = sd.curve([(0.0, 0.5), (0.3, 0.5, 0.9), (0.5, 0.4, 0.8)])
    assert repr(curve) == (
        "Curve(2 points, sparsity 30.0% to 50.0%, retention 100.0% to 80.0%, dense score 0.5, "
        "unknown number of examples)"
    )
    assert repr(sd.critical_sparsity(curve)) == "CriticalSparsity(31.0%, crossed, p=0.895, retain=0.99)"
    scores = np.ones(40)
    half = np.repeat([1.0, 0.0], 20)
    measured = sd.curve([(0.0, scores), (0.3, scores), (0.5, half)])
    assert repr(measured).endswith("dense score 1, 40 examples)")
    assert "95% interval 0.0% to 50.0%" in repr(sd.critical_sparsity(measured))
