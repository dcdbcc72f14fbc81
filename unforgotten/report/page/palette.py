"""The colours of figures, by name, for a light and a dark page. A figure is drawn in the light ones."""

from __future__ import annotations

from collections.abc import Iterable

METHODS = ("m0", "m1", "m2", "m3", "m4", "m5")
"""Of the methods after sft, in their order."""
LIGHT = {
    **{"ground": "#fbfaf6", "ink": "#1d1d1b", "soft": "#62615b", "hair": "#e4e1d8", "heat": "#e2702b"},
    **{"sft": "#c8500a", "m0": "#0067a8", "m1": "#00785a", "m2": "#9b4a86", "m3": "#8a6500", "m4": "#3b7fa6"},
    **{"m5": "#5a4fb0"},
}
DARK = {
    **{"ground": "#161715", "ink": "#eceae3", "soft": "#a3a199", "hair": "#2d2e2a", "heat": "#a9470c"},
    **{"sft": "#ff8f4a", "m0": "#62b5f0", "m1": "#3fc99d", "m2": "#dd93c8", "m3": "#d9b44a", "m4": "#8fc3de"},
    **{"m5": "#a9a1f2"},
}
NAMES = {colour: name for name, colour in LIGHT.items()}


def sheet(names: Iterable[str] = LIGHT) -> str:
    """The style sheet of figures with these colours: the classes f-NAME (filled) and s-NAME (stroked) on a dark screen
    and on paper."""
    dark = "".join(f".f-{name}{{fill:{DARK[name]}}}.s-{name}{{stroke:{DARK[name]}}}" for name in names)
    paper = ".f-ground{fill:#fff}.s-ground{stroke:#fff}"
    return f"@media screen and (prefers-color-scheme:dark){{{dark}}}@media print{{{paper}}}"
