"""Markdown to HTML, LaTeX to MathML: browsers draw MathML themselves, so nothing has to be fetched or shipped."""

import html
import re
from collections.abc import Callable
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert.filters.markdown import markdown2html

# code comes first, so that what stands in it is left alone
_MATH = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<block>.+?)\$\$|\\\\\((?P<inline>.+?)\\\\\)"
    r"|(?<![\\$\w])\$(?![\s$])(?P<dollar>[^$\n]+?)(?<!\s)\$(?!\w)",
    re.S,
)
_HEADING = re.compile(r"<h([23]) id=\"([^\"]+)\"[^>]*>(.*?)</h\1>", re.S)
_LINK = re.compile(r"<a\b[^>]*?href=\"([^\"]*)\"[^>]*>(.*?)</a>", re.S)


def render(text: str, renderer: Callable[[str], str] = markdown2html) -> str:
    """HTML of Markdown with LaTeX between dollars, or of whatever ``renderer`` reads."""
    kept: list[str] = []

    def keep(found: re.Match) -> str:
        if found["code"]:
            return found["code"]
        tex = found["block"] or found["inline"] or found["dollar"]
        drawn = convert(" ".join(tex.split()), display="block" if found["block"] else "inline")
        # a box that scrolls by itself where the equation is wider than a phone
        kept.append(f'<span class="equation" tabindex="0">{drawn}</span>' if found["block"] else drawn)
        # letters and digits alone, which no renderer takes for markup
        return f"MATHQ{len(kept) - 1}Q"

    shown = renderer(_MATH.sub(keep, text))
    return re.sub(r"MATHQ(\d+)Q", lambda found: kept[int(found[1])], shown)


def tables_that_scroll(page: str) -> str:
    """Each table in a box of its own: on a phone the box is scrolled, not the page."""
    page = re.sub(r"<table\b", '<div class="wide" tabindex="0"><table', page)
    return page.replace("</table>", "</table></div>")


def contents(page: str) -> list[tuple[int, str, str]]:
    """(level, anchor, title) of the headings of levels 2 and 3."""
    found = []
    for level, anchor, title in _HEADING.findall(page):
        title = re.sub(r"<a class=\"anchor-link\".*?</a>", "", title, flags=re.S)
        found.append((int(level), anchor, html.unescape(re.sub(r"<[^>]+>", "", title)).strip()))
    return found


def without_dead_links(page: str, folder: Path) -> str:
    """Links to files of the repository that the site has not become plain text. ``folder``: the page's own."""

    def kept(found: re.Match) -> str:
        target = found[1]
        alive = re.match(r"[a-z]+:|#", target) or (folder / target.split("#")[0]).exists()
        return found[0] if alive else found[2]

    return _LINK.sub(kept, page)
