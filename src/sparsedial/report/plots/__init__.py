"""A small writer of charts as SVG: scales, axes, points, lines, intervals, heat maps and histograms."""
