"""What all panels share: where files are, pictures from figures, and what is stored of a panel in a notebook."""

import base64
import html
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import traitlets
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps

from avcil.results import plots_explore

COLUMN = 330  # pixels that controls are wide
WIDE = {
    "style": {"description_width": "initial"},  # as wide as its text: all the rest is for the names to choose from
    "layout": widgets.Layout(width=f"{COLUMN - 6}px", max_width="98%"),
}
ALIGNED = WIDE | {"style": {"description_width": "150px"}}  # one below another, controls begin at the same place
VEGA = "application/vnd.vegalite.v5+json"
EMBED = {"embed_options": {"renderer": "svg", "actions": False}}
STYLE = """<style>
.avcil-panel .widget-output :is(.jp-OutputArea-child, .jp-OutputArea-output) {display: block; width: auto}
.avcil-panel svg.marks {max-width: 100%; height: auto}
</style>"""  # figures are as wide as they are drawn, but no wider than a phone
STILL = "A picture of the panel, without its controls: Run > Run All Cells brings them"


class Places(NamedTuple):
    """Where a project keeps what panels read. Only ``metrics``, ``corpus`` and ``prior`` stand on a fresh clone.

    artifacts: folder of checkpoints and results; features: folder of stores; splits: manifest and class orders; corpus:
    manifest, clips and regions of the benchmark; prior: weights of the `mini` encoder.
    """

    metrics: Path
    artifacts: Path
    features: Path
    splits: Path
    corpus: Path
    prior: Path


def print_hint() -> None:
    """How controls come up, and what a reload of the page does."""
    # Voilà has a kernel for each page, which ends with it
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila/"):
        print("A reload of this page starts over: what you chose and trained ends with it.")
    else:
        print(
            "`make lab` brings the controls up by itself, and after a reload as you left them; elsewhere, and in a new "
            "kernel, Run > Run All Cells does."
        )


# ---- pictures and words


def picture(caption: str) -> widgets.Image:
    """An empty picture, shown as large as it is drawn where the page is wide enough; caption: in place of it."""
    layout = widgets.Layout(align_self="flex-start", max_width="100%", flex="0 0 auto")
    # ipywidgets has no alternative text for it: the application's page (avcil/workshop/app) takes it from here
    return widgets.Image(format="png", layout=layout).add_class(f"alt-{caption.replace(' ', '-')}")


def png(figure: Figure) -> bytes:
    """The figure is closed, so that a notebook shows it once, in its panel."""
    content = io.BytesIO()
    # without matplotlib's version the same figure is the same bytes
    figure.savefig(content, format="png", dpi=80, metadata={"Software": None})
    plt.close(figure)
    return content.getvalue()


def area() -> widgets.Output:
    """Room for a figure, as wide as that is where the page is wide enough."""
    return widgets.Output(layout=widgets.Layout(width="max-content", max_width="100%", flex="0 1 auto"))


def plot(output: widgets.Output, figure: dict | None) -> None:
    """Show a Vega-Lite figure there, or take no room for none."""
    output.layout.display = None if figure else "none"
    shown = {"data": {VEGA: {"config": plots_explore.CONFIG} | (figure or {})}, "metadata": {VEGA: EMBED}}
    # replaced rather than cleared and filled, so that no blank frame is seen
    output.outputs = [{"output_type": "display_data"} | shown] if figure else []


def still(content: bytes) -> bytes:
    """The picture of a panel under a line which says that it is only that."""
    whole = ImageOps.expand(Image.open(io.BytesIO(content)).convert("RGB"), (0, 26, 0, 0), "#fff3cd")
    ImageDraw.Draw(whole).text((8, 4), STILL, fill="#5c4400", font=ImageFont.load_default(14))
    written = io.BytesIO()
    whole.save(written, "png")
    return written.getvalue()


def line(text: str, *, wrong: bool = False) -> str:
    """One line of HTML, red where it says that something is wrong."""
    return f'<span style="color: {"#b00020" if wrong else "inherit"}">{html.escape(text)}</span>'


# ---- controls


def beside(controls: list[widgets.Widget], shown: list[widgets.Widget]) -> widgets.HBox:
    """Controls in a column of fixed width, and what they change at its right; on a narrow page below it."""
    # with a least width of 0, else what is in a column keeps it from shrinking on a phone
    left = widgets.VBox(controls, layout=widgets.Layout(flex=f"0 1 {COLUMN}px", min_width="0"))
    right = widgets.VBox(shown, layout=widgets.Layout(flex="1 1 560px", min_width="0", overflow="hidden"))
    return side_by_side(left, right)


def side_by_side(*children: widgets.Widget) -> widgets.HBox:
    """Side by side, or below one another where the page is narrow."""
    return widgets.HBox(
        children, layout=widgets.Layout(flex_flow="row wrap", align_items="flex-start", grid_gap="12px")
    )


class Checks(widgets.VBox):
    """Names to tick, whole. ``options`` are pairs of name and value; ``value`` has what is ticked, in their order."""

    options: traitlets.List = traitlets.List()
    value = traitlets.Tuple()

    def __init__(self, caption: str, options=(), value=(), *, height: int | None = None):
        """height: pixels beyond which the names scroll, sooner on a phone; None: they stand side by side."""
        self._quiet = False
        self._size = {"width": "98%" if height else "48px", "height": "22px", "margin": "0"}
        flow = {"max_height": f"min({height}px, 45vw)", "overflow": "auto", "display": "block"} if height else {}
        self.boxes = widgets.Box(layout=widgets.Layout(**flow))
        self.none = widgets.Button(description="none", tooltip="untick all", layout=widgets.Layout(width="60px"))
        self.none.on_click(lambda _: setattr(self, "value", ()))
        title = widgets.HTML(f"<b>{html.escape(caption)}</b>")
        head = side_by_side(title, self.none if height else self.boxes)
        super().__init__([head, self.boxes] if height else [head], layout=WIDE["layout"])
        self.options, self.value = list(options), tuple(value)

    @traitlets.observe("options")
    def _list(self, _) -> None:
        old = self.boxes.children
        self.boxes.children = [
            widgets.Checkbox(
                value=value in self.value, description=name, indent=False, layout=widgets.Layout(**self._size)
            )
            for name, value in self.options
        ]
        for box in self.boxes.children:
            box.observe(self._ticked, "value")
        # else boxes of earlier lists would stay in the kernel
        for box in old:
            box.close()
        # what is no option any more is not ticked any more
        self._ticked()

    @traitlets.observe("value")
    def _tick(self, _) -> None:
        # boxes that are set from here shall not answer
        self._quiet = True
        for box, (_, value) in zip(self.boxes.children, self.options, strict=True):
            box.value = value in self.value
        self._quiet = False
        # once for all of them: values that are no option drop out
        self._ticked()

    def _ticked(self, _=None) -> None:
        if not self._quiet:
            pairs = zip(self.boxes.children, self.options, strict=True)
            self.value = tuple(value for box, (_, value) in pairs if box.value)


class Panel(widgets.VBox):
    """A column of widgets. A stored notebook, which has no widgets, keeps a picture, marked as such,
    and one line of text."""

    _quiet = False

    def __init__(self, summary: str, children: list[widgets.Widget]):
        self._summary = summary
        super().__init__([*children, widgets.HTML(STYLE)])
        self.add_class("avcil-panel")

    def _picture(self) -> bytes:
        """The picture that is stored of it, a .png file; empty for none."""
        raise NotImplementedError

    def react(self, function: Callable[[], object], *controls: widgets.Widget) -> None:
        """Call the function whenever one of the controls changes, but not meanwhile in `quiet`."""
        for control in controls:
            control.observe(lambda _: self._quiet or function(), "value")

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Controls change one after the other: what follows from them is done once, at the end, by the caller."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def __repr__(self) -> str:
        return self._summary

    def _repr_mimebundle_(self, **options):
        bundle = super()._repr_mimebundle_(**options)
        # beside the widgets, which nobody can show without their kernel
        if picture := self._picture():
            bundle["image/png"] = base64.b64encode(still(picture)).decode()
        return bundle
