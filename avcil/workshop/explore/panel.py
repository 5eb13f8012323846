"""What all panels share: where files are, pictures from figures, and what is stored of a panel in a notebook."""

import base64
import html
import io
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LABEL = {"description_width": "150px"}
WIDE = widgets.Layout(width="340px")


class Places(NamedTuple):
    """Where a project keeps what panels read. Only ``metrics``, ``corpus`` and ``prior`` stand on a fresh clone.

    runs: folder of checkpoints and results; features: folder of stores; splits: manifest and class orders; corpus:
    manifest, clips and regions of the benchmark; prior: weights of the `mini` encoder.
    """

    metrics: Path
    runs: Path
    features: Path
    splits: Path
    corpus: Path
    prior: Path


def png(figure: Figure, *, live: bool = False) -> bytes:
    """The figure as a file; it is closed, so that a notebook shows it once, in its panel.

    live: for a picture that is drawn over and over: always of the same size, in less time.
    """
    content, metadata = io.BytesIO(), {"Software": None}
    if live:
        figure.set_dpi(80)
        FigureCanvasAgg(figure).print_png(content, metadata=metadata)
    else:
        figure.savefig(content, format="png", dpi=80, metadata=metadata)
    plt.close(figure)
    return content.getvalue()


def picture() -> widgets.Image:
    """An empty picture, shown as large as it is drawn where the page is wide enough."""
    return widgets.Image(
        format="png", layout=widgets.Layout(flex="0 0 auto", align_self="flex-start", max_width="100%")
    )


def show(image: widgets.Image, content: bytes) -> None:
    """Put a picture there, or take no room for none."""
    image.value, image.layout.display = content, None if content else "none"


def side_by_side(*children: widgets.Widget) -> widgets.HBox:
    """Side by side, or below one another where the page is narrow."""
    return widgets.HBox(
        children, layout=widgets.Layout(flex_flow="row wrap", align_items="flex-start", grid_gap="12px")
    )


def small_table(frame: pd.DataFrame) -> str:
    """A small table as HTML."""
    style = "<style>table.avcil td, table.avcil th {padding: 1px 10px; line-height: 1.6; text-align: right}</style>"
    return style + frame.to_html(border=0, classes="avcil", na_rep="")


def line(text: str, *, wrong: bool = False) -> str:
    """One line of HTML, red where it says that something is wrong."""
    return f'<span style="color: {"#b00020" if wrong else "inherit"}">{html.escape(text)}</span>'


def code(text: str) -> str:
    """Text to be copied, as HTML."""
    style = "white-space: pre-wrap; line-height: 1.3; background: rgba(128, 128, 128, 0.12); padding: 6px"
    return f'<pre style="{style}">{html.escape(text)}</pre>'


def choice(options, value, description: str, **others) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, value=value, description=description, style=LABEL, layout=WIDE, **others)


class Panel(widgets.VBox):
    """A column of widgets. A stored notebook, which has no widgets, keeps its first picture and one line of text."""

    def __init__(self, summary: str, picture: widgets.Image, children: list[widgets.Widget]):
        self._summary, self._picture = summary, picture
        super().__init__(children)

    def __repr__(self) -> str:
        return self._summary

    def _repr_mimebundle_(self, **options):
        bundle = super()._repr_mimebundle_(**options)
        if self._picture.value:
            bundle["image/png"] = base64.b64encode(self._picture.value).decode()
        return bundle
