"""The colours of the page and of its pictures, light and dark."""

import dataclasses

from engine.plots import BLUE, GREEN, INK, LIGHT, ORANGE, STYLE


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb.

    Args:
        paper, panel: backgrounds of the page and of boxes.
        ink, soft: text, and text that matters less.
        line: grids and borders.
        series: curves, in order; the third also stands for filters kept.
    """

    paper: str
    panel: str
    ink: str
    soft: str
    line: str
    series: tuple[str, ...]

    @property
    def variables(self):
        """The colours as variables of CSS."""
        named = {name: getattr(self, name) for name in ("paper", "panel", "ink", "soft", "line")}
        named |= {f"series-{i}": colour for i, colour in enumerate(self.series)}
        return "".join(f"--{name}:{colour};" for name, colour in named.items())

    @property
    def style(self):
        """matplotlib's settings, with a transparent background."""
        text = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor")
        return {
            **STYLE,
            **dict.fromkeys((*text, "xtick.color", "ytick.color"), self.ink),
            **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
            "axes.prop_cycle": f"cycler('color', {list(self.series)})",
            "grid.color": self.line,
            "grid.linewidth": 0.8,
            "font.size": 11,
            "svg.hashsalt": "ekg",  # the same picture is the same bytes
        }


LIGHT_THEME = Theme(
    paper="#ffffff",
    panel="#f5f7fa",
    ink=INK,
    soft="#556070",
    line=LIGHT,
    series=(BLUE, ORANGE, GREEN, "#6b46c1", "#b83280", "#0e7490", "#8a6100", "#64748b"),
)
DARK_THEME = Theme(
    paper="#12161c",
    panel="#1b212a",
    ink="#e4e8ee",
    soft="#a3afbf",
    line="#38424f",
    series=(
        "#63b3ed",
        "#f6ad55",
        "#68d391",
        "#b794f4",
        "#f687b3",
        "#4dd0e1",
        "#e6c84f",
        "#a0aec0",
    ),
)
