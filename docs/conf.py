"""How `make site` builds the pages: Sphinx with myst-nb and sphinx-book-theme, from the repository's own files.

The source folder is the repository's root, so a link that works on GitHub works on the site. Lessons are shown with
the outputs that are committed; nothing is executed. Every page asks for nothing beyond the site's own files.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
BADGE = re.compile(
    r"\[!\[Open in Colab\]\([^)]*\)\]\(https://colab\.research\.google\.com/github/([^/]+/[^/]+)/[^)]*\)"
)
# The repository's address, from where the lessons' Colab buttons have it; until it is known, pages have no such button.
ADDRESS = BADGE.search(LESSONS[0].read_text(encoding="utf-8"))[1]
PUBLISHED = ADDRESS != "OWNER/REPOSITORY"
# A figure of each lesson for the start page: the name under which the lesson shows it, or its explorer's call.
PICTURES = {
    "01": '"conflicts"', "02": '"confused_pairs"', "03": "explore.heat_maps", "04": '"views"',
    "05": "explore.positives", "06": '"reconstructions"', "07": '"intervals"',
}  # fmt: skip

project = "Image representation learning"
author = "The authors of labutil"
project_copyright = "text under CC BY 4.0, code under MIT"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx_copybutton", "sphinx_design"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md", "notebooks/[0-9]*.ipynb", "README.md", "CONTRIBUTING.md", "data/README.md", "CHANGELOG.md",
]  # fmt: skip
exclude_patterns = [".*", "build", "runs", "sweeps", "labutil", "tests", "**/.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # explorers are their static pictures
nb_merge_streams = True
nb_render_markdown_format = "myst"  # readings have formulas
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # the first cells' `!git clone`, which is IPython
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of torch and NumPy: their pages are elsewhere

MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}  # the menu would fetch its parts from elsewhere

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80

html_theme = "sphinx_book_theme"
html_title = project
templates_path = ["_templates"]
html_sidebars = {"**": ["brand.html", "find.html", "sbt-sidebar-nav.html"]}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {
    "repository_branch": "main",
    "repository_url": f"https://github.com/{ADDRESS}" if PUBLISHED else "",
    "use_repository_button": PUBLISHED,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"} if PUBLISHED else {},
    "navbar_persistent": [],  # one search field is enough
    "show_navbar_depth": 1,
    "show_toc_level": 2,
}


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", _draw_pictures)
    app.connect("source-read", _source)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("html-page-context", _accessible)
    app.connect("build-finished", _finish)


def _draw_pictures(app: Sphinx) -> None:
    """docs/_pictures/NN.jpg: a committed figure of each lesson, for its card on the start page."""
    folder = ROOT / "docs" / "_pictures"
    folder.mkdir(exist_ok=True)
    for lesson in LESSONS:
        number = lesson.name[:2]
        cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
        shown = next(c for c in cells if c["cell_type"] == "code" and PICTURES[number] in "".join(c["source"]))
        html = "".join("".join(o.get("data", {}).get("text/html", "")) for o in shown["outputs"])
        data = re.search(r'src="data:image/(?:jpeg|png);base64,([^"]+)"', html)[1]
        picture = Image.open(BytesIO(base64.b64decode(data))).convert("RGB")
        ImageOps.fit(picture, (640, 360), centering=(0, 0)).save(folder / f"{number}.jpg", quality=85)


def _source(app: Sphinx, name: str, source: list[str]) -> None:
    """What a page of GitHub has and a page of the site cannot: a badge from elsewhere, and links to folders."""
    here = ROOT / name
    if name.startswith("notebooks/"):
        source[0] = BADGE.sub("", source[0])  # the page has a button of its own
        return
    for whole, text, target in re.findall(r"(\[([^\]]+)\]\(([^)#:\s]+)\))", source[0]):
        folder = (here.parent / target).resolve()
        if folder.is_dir():
            path = folder.relative_to(ROOT).as_posix()
            url = f"[{text}](https://github.com/{ADDRESS}/tree/main/{path})" if PUBLISHED else text
            source[0] = source[0].replace(whole, url)


def _docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Our docstrings as reStructuredText: paragraphs that are indented below their first line are kept as written."""
    text = []
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        if re.search(r"^ ", block, re.MULTILINE):
            text += [".. code-block:: text", "", *("    " + line for line in block.splitlines()), ""]
        else:
            words = re.split(r"`([^`]+)`", block)  # prose and code, by turns
            words[::2] = [re.sub(r"([*|\\]|_(?=\W|$))", r"\\\1", prose) for prose in words[::2]]
            words[1::2] = [f"``{code}``" for code in words[1::2]]
            text += [*"".join(words).splitlines(), ""]
    lines[:] = text


def _accessible(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """What axe-core asks of a page's body beyond what the tools write."""

    def no_head(found: re.Match) -> str:  # pandas' empty corner names nothing
        return found[0].replace("<th", "<td").replace("</th", "</td")

    def no_list(found: re.Match) -> str:  # Sphinx writes long signatures as a definition list without terms
        parts = re.sub(r"<(/?)dl\b", r"<\1div", found[0]).replace("<dd>", '<div class="sig-part">')
        return parts.replace("</dd>", "</div>")

    body = context.get("body", "")
    body = re.sub(r"<th\b[^>]*>(?:\s|&nbsp;|<p></p>)*</th>", no_head, body)
    body = re.sub(r"<table\b.*?</table>", r'<div class="scroll" tabindex="0">\g<0></div>', body, flags=re.DOTALL)
    body = re.sub(
        r'<div class="math\b', r'<div tabindex="0" class="math', body
    )  # what scrolls can be reached by keyboard
    body = body.replace("<pre>", '<pre tabindex="0">')  # likewise, before the theme's script says so
    body = re.sub(r'<dt class="sig\b.*?</dt>', no_list, body, flags=re.DOTALL)
    context["body"] = body.replace(' aria-label="Toggle hidden content"', "")  # the words inside say more


def _finish(app: Sphinx, error: Exception | None) -> None:
    """The parts of MathJax that pages ask for, and a first page that leads to the start page."""
    if error is None and app.builder.format == "html":
        target, fonts = Path(app.outdir) / "_static" / "mathjax", "output/chtml/fonts"
        shutil.copytree(MATHJAX / fonts, target / fonts, dirs_exist_ok=True)
        shutil.copy(MATHJAX / "tex-chtml.js", target)
        for table in Path(app.outdir).rglob("*.map"):  # for debuggers alone
            table.unlink()
        start = '<!doctype html><html lang="en"><title>{0}</title><meta http-equiv="refresh" content="0; url={1}">'
        page = start.format(project, "docs/index.html") + f'<a href="docs/index.html">{project}</a></html>\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")
