"""The style sheet of the page: dark on white, in one column, readable on a phone and on paper."""

CSS = """
:root { color-scheme: light; --ink: #1c1c1c; --soft: #555; --line: #ddd; --warn: #8a4b00; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Arial, sans-serif; }
main { max-width: 940px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 12px; }
h3 { font-size: 1rem; margin: 16px 0 6px; }
.model { color: var(--soft); margin: 0 0 12px; overflow-wrap: anywhere; }
.answer { font-size: 1.1rem; margin: 0; }
p, li, dd { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { text-align: left; color: var(--soft); padding-bottom: 8px; overflow-wrap: anywhere; }
th, td { text-align: left; vertical-align: top; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); }
.results td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.results td.interpretation, .results td.warning { white-space: normal; }
.results td.share { white-space: normal; min-width: 12em; }
.results [scope=row] { white-space: nowrap; }
.results [scope=rowgroup] { padding-top: 22px; font-weight: 400; color: var(--soft); overflow-wrap: anywhere; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--ink); }
th i { display: inline-block; width: .75em; height: .75em; border-radius: 50%; margin-right: .5em; }
.interpretation { color: var(--soft); }
.warning { color: var(--warn); }
.files { font-size: .92rem; color: var(--soft); }
a { color: #00558c; margin-right: .5em; }
section.problems { margin: 0 0 20px; }
.problems { border-left: 5px solid #b00020; background: #fff4f4; padding: 10px 16px; }
.problems h2 { margin: 0 0 4px; }
.note { color: var(--soft); border-left: 3px solid var(--line); padding-left: 12px; }
.problems p { margin: 0; font-weight: 600; }
.problems ul { margin: 6px 0 0; padding-left: 20px; }
figure { margin: 0 0 32px; break-inside: avoid; }
figure svg { display: block; max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px; margin: 0; }
dt { font-weight: 600; }
dd { margin: 0; }
pre { background: #f5f5f5; padding: 10px 14px; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88rem; }
summary { cursor: pointer; font-weight: 600; }
details th { font-weight: 400; color: var(--soft); width: 34%; }
details td, details th { overflow-wrap: anywhere; }
@media (max-width: 640px) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 10px; }
  figure svg { min-width: 560px; } }
@media print { main { max-width: none; padding: 0; }
  details::details-content { content-visibility: visible; height: auto; } }
"""
