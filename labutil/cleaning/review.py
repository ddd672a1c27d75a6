"""The page on which a person goes through what was found: one file, which works offline; and a server for it."""

from __future__ import annotations

import base64
import io
import json
import secrets
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labutil.cleaning import decisions
from labutil.cleaning.defects import to_pillow
from labutil.cleaning.tool import Judged
from labutil.paths import DataError, replace_file

MOST = 2000  # findings on a page: each costs 4 to 12 kB
_TEMPLATE = Path(__file__).with_name("review.html")
_DATA = '<script type="application/json" id="data">'


def write_page(judged: Judged, path: Path, title: str) -> int:
    """Write the page; how many findings are on it: those that nobody has reviewed come first, MOST at most."""
    table, image_of = judged.table, {int(row): i for i, row in enumerate(judged.rows)}
    place = {name: row for row, name in enumerate(table["path"])}
    rank = {reason: i for i, reason in enumerate(decisions.REASONS)}
    rows = np.flatnonzero(table["reason"] != "")
    first = decisions.first_reason(table)
    order = [(table["reviewed"][row] == "yes", rank[first[row]]) for row in rows]
    rows = [int(rows[i]) for i in sorted(range(len(rows)), key=order.__getitem__)]
    items = []
    for row in rows[:MOST]:
        twin = table["twin"][row]
        items.append({"row": row, "beside": [place[twin]] if twin else judged.nearest.get(row, []), "twin": bool(twin)})
    shown = {row for item in items for row in (item["row"], *item["beside"]) if row in image_of}
    data = {
        "title": title,
        "columns": list(table),
        "rows": table.to_numpy().tolist(),
        "items": items,
        "left": len(rows) - len(items),
        "pictures": {row: _jpeg(judged.images[image_of[row]]) for row in sorted(shown)},
    }
    text = json.dumps(data).replace("<", "\\u003c")
    page = _TEMPLATE.read_text("utf-8").replace(_DATA, _DATA + text)
    replace_file(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return len(items)


def read_page(folder: Path) -> dict[str, Any]:
    """What `write_page` put into a page. Raises DataError where there is none."""
    try:
        text = (folder / "review.html").read_text("utf-8")
        return json.loads(text.partition(_DATA)[2].partition("</script>")[0])
    except (OSError, ValueError):
        raise DataError(f"{folder} has no review.html: labutil clean SPEC --out {folder}") from None


def _jpeg(image: np.ndarray) -> str:
    file = io.BytesIO()
    to_pillow(image).save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()


def decide(table: pd.DataFrame, row: int, decision: str, label: str = "") -> None:
    """Set a person's decision in a table."""
    table.loc[row, ["decision", "reviewed"]] = decision, "yes"
    if decision == "relabel":
        table.loc[row, "suggested label"] = label


def serve(folder: Path, announce: Callable[[str], None]) -> None:
    """Serve the page of `folder` to this machine alone, at an address that nobody can guess; what is decided there
    goes into decisions.csv at once. Runs until it is interrupted. announce: is told the address."""
    read_page(folder)
    base, file = f"/{secrets.token_urlsafe(16)}/", folder / "decisions.csv"
    own = list(decisions.load(file)["path"])
    served = {base: ("text/html", folder / "review.html"), f"{base}decisions.csv": ("text/csv", file)}

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, kind: str = "text/plain", body: bytes = b"") -> None:
            self.send_response(status)
            headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
            for name, value in (headers | {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            kind, path = served.get(self.path, ("", None))
            self.answer(200, kind, path.read_bytes()) if path else self.answer(404)

        def do_POST(self) -> None:
            if self.path != f"{base}decisions.csv":
                return self.answer(404)
            try:
                text = self.rfile.read(min(int(self.headers["Content-Length"]), 1 << 28)).decode("utf-8")
                table = decisions.load(io.StringIO(text))
                if list(table["path"]) != own:
                    raise DataError("this page is of an earlier run: load it anew")
                decisions.save(table, file)
            except (ValueError, OSError) as error:
                return self.answer(400, body=str(error).encode())
            return self.answer(204)

        def log_message(self, *_: object) -> None:
            """Nothing: the terminal stays readable."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        announce(f"http://127.0.0.1:{server.server_port}{base}")
        server.serve_forever()
