"""The pieces of a self-contained HTML page, which loads nothing from elsewhere."""

import base64
import html
import os
from collections.abc import Sequence

from sg_jax.errors import UserError
from sg_jax.runs import files

# One style for phones and desktops, light and dark; figures stay on white, as their ink is dark.
CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --faint: #59636e; --paper: #fff;
  --line: #d1d9e0; --box: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9198a1; --paper: #0d1117;
  --line: #30363d; --box: #161b22; } }
body { margin: 0 auto; max-width: 62rem; padding: 1rem 1.25rem 3rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.55 system-ui, sans-serif; -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .75rem 0 1.25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
p, dd { max-width: 46rem; }
small { color: var(--faint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; vertical-align: baseline; }
th { font-weight: 600; }
thead th { vertical-align: bottom; border-bottom-width: 2px; }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--paper); }
th small { display: block; font-weight: 400; }
tbody th small { white-space: normal; min-width: 6rem; max-width: 14rem; }
tfoot td, tfoot th { color: var(--faint); font-weight: 400; }
td b { font-weight: 700; }
figure { margin: 1.75rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { color: var(--faint); font-size: .9rem; margin-top: .5rem; }
dt { font-weight: 600; }
dd { margin: 0 0 .75rem; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; }
.facts dt { font-weight: 400; color: var(--faint); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  padding: .75rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .9rem/1.5 ui-monospace, monospace; }
@media (max-width: 40rem) { tbody th small { max-width: 7.5rem; }
  figure { overflow-x: auto; } figure img { max-width: 44rem; }
  .facts { display: block; } .facts dd { margin-bottom: .5rem; } }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """Return the whole page.

    Args:
      title: plain text, escaped here.
      parts: HTML, in order.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{html.escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{chr(10).join(parts)}
</body>
</html>
"""


def heading(text: str) -> str:
    """Return a section's heading."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def code(text: str) -> str:
    """Return a block of code that wraps on narrow screens."""
    return f"<pre>{html.escape(text)}</pre>"


def definitions(pairs: Sequence[tuple[str, str]], css_class: str = "") -> str:
    """Return terms, each with its definition."""
    items = (f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in pairs)
    return f'<dl class="{css_class}">\n' + "\n".join(items) + "\n</dl>"


def figure(path: str | os.PathLike, caption: str) -> str:
    """Return a PNG file as part of the page.

    Args:
      path: the PNG.
      caption: shown below it, and used as its alternative text.

    Raises:
      UserError: there is no PNG at `path`.
    """
    try:
        content = files.path(path).read_bytes()
    except OSError as error:
        raise UserError(f"The picture {path} cannot be read: {error.strerror or error}.") from error
    if not content.startswith(b"\x89PNG"):
        raise UserError(f"The picture {path} is not a PNG file.")
    data = base64.b64encode(content).decode()
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def table(
    head: Sequence[tuple[str, str]],
    body: Sequence[Sequence[tuple[str, str, bool]]],
    foot: Sequence[Sequence[str]] = (),
) -> str:
    """Return a table whose first column names the rows.

    Args:
      head: text and unit of each column.
      body: rows of cells; a cell is its text, a smaller second line, and whether it is bold.
      foot: rows of plain cells that are not part of the comparison.
    """

    def row(cells):
        first, *others = cells
        tags = [f'<th scope="row">{first}</th>', *(f"<td>{cell}</td>" for cell in others)]
        return f"<tr>{''.join(tags)}</tr>"

    def cell(text, below, bold):
        inner = f"<b>{html.escape(text)}</b>" if bold else html.escape(text)
        return inner + (f"<small>{html.escape(below)}</small>" if below else "")

    heads = (f'<th scope="col">{cell(text, unit, False)}</th>' for text, unit in head)
    bodies = (row([cell(*each) for each in cells]) for cells in body)
    feet = (row([cell(text, "", False) for text in cells]) for cells in foot)
    return (
        '<div class="scroll"><table>\n'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(bodies)}\n</tbody>\n"
        f"<tfoot>{chr(10).join(feet)}</tfoot>\n</table></div>"
    )
