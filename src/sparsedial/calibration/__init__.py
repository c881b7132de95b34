"""Calibration of rules on the vectors that a model computes for the examples of a task."""

from sparsedial.calibration.calibrate import (
    PreparedTexts,
    SiteSelection,
    calibrate,
    calibrate_site,
    check_data,
    data_name,
    make_data_task,
)

__all__ = ["PreparedTexts", "SiteSelection", "calibrate", "calibrate_site", "check_data", "data_name", "make_data_task"]
