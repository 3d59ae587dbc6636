"""Pages of an HTML export as Telegram Desktop lays them out, and a function that reads them."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.exports.columns import MESSAGES
from flows.exports.discover import Export
from flows.exports.html_batch import HtmlBatch
from flows.exports.html_export import read_html
from flows.exports.reading import Reading

Read = Callable[..., tuple[list[dict[str, Any]], Reading]]

DOCUMENTS = ("entities", "media", "forward", "service", "reactions", "extra")

WHEN = "28.07.2025 20:49:27 UTC+02:00"
#: The same on the exporter's wall clock.
LOCAL = datetime(2025, 7, 28, 20, 49, 27)  # noqa: DTZ001 - it has no zone
#: The layout of Telegram Desktop.
PAGE = """<!DOCTYPE html>
<html>

 <head>

  <meta charset="utf-8"/>
<title>Exported Data</title>

 </head>

 <body onload="CheckLocation();">

  <div class="page_wrap">

   <div class="page_header">

    <div class="content">

     <div class="text bold">
{name}
     </div>

    </div>

   </div>

   <div class="page_body chat_page">

    <div class="history">
{messages}
    </div>

   </div>

  </div>

 </body>

</html>
"""


def page(*messages: str, name: str = "Chat", back: str = "", following: str = "") -> str:
    """Return a page; ``back`` and ``following`` are the parts to which it links."""
    links = [_pagination(back, "Previous messages"), _pagination(following, "Next messages")]
    return PAGE.format(name=f"{name} ", messages="".join([links[0], *messages, links[1]]))


def _pagination(link: str, words: str) -> str:
    return f'\n     <a class="pagination block_link" href="{link}">\n{words}\n     </a>\n' if link else ""


def div(names: str, content: str) -> str:
    return f'\n       <div class="{names}">\n{content}\n       </div>\n'


def message(number: int, *content: str, sender: str | None = "A", when: str = WHEN) -> str:
    """Return a message; without a sender it is joined to the one above."""
    joined = "" if sender else " joined"
    name = div("from_name", f"{sender} ") if sender else ""
    return (
        f'\n     <div class="message default clearfix{joined}" id="message{number}">\n'
        + div("pull_left userpic_wrap", '<div class="userpic userpic1"><div class="initials">A</div></div>')
        + f'\n      <div class="body">\n\n       <div class="pull_right date details" title="{when}">\n20:49'
        + f"\n       </div>\n{name}{''.join(content)}\n      </div>\n\n     </div>\n"
    )


def text(content: str) -> str:
    return div("text", content)


def service(number: int, content: str) -> str:
    body = f'\n      <div class="body details">\n{content}\n      </div>\n'
    return f'\n     <div class="message service" id="message{number}">\n{body}\n     </div>\n'


def media(kind: str, title: str = "", description: str = "", status: str = "", link: str = "") -> str:
    tag = f'a class="media clearfix pull_left block_link {kind}" href="{link}"' if link else ""
    parts = [("title bold", title), ("description", description), ("status details", status)]
    body = div("body", "".join(div(names, words) for names, words in parts if words))
    opened = tag or f'div class="media clearfix pull_left {kind}"'
    return div("media_wrap clearfix", f"<{opened}>\n{body}\n</{opened.split()[0]}>")


def reader(folder: Path, zone: str | None = None) -> Read:
    """Return a function that reads the pages of a chat and returns rows and problems.

    ``zone`` is the time zone that the operator has named. The pages are read twice, with the pattern of
    flows.exports.html_head and in a form that this does not match.
    """

    def read(*pages: str | bytes) -> tuple[list[dict[str, Any]], Reading]:
        contents = [content if isinstance(content, bytes) else content.encode() for content in pages]
        found = _read_pages(folder, zone, contents)
        others = [content.replace(b'" id="message', b'"\tid="message') for content in contents]
        assert _read_pages(folder, zone, others) == found
        return found

    return read


def _read_pages(folder: Path, zone: str | None, pages: list[bytes]) -> tuple[list[dict[str, Any]], Reading]:
    parts = []
    for number, content in enumerate(pages, 1):
        parts.append(folder / f"messages{number if number > 1 else ''}.html")
        parts[-1].write_bytes(content)
    reading = Reading("000001-x.zip")
    batches = list(read_html(Export("html", tuple(parts)), reading, HtmlBatch(zone)))
    assert all(batch.schema == MESSAGES for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    for row in rows:
        row |= {name: json.loads(row[name]) for name in DOCUMENTS if row[name] is not None}
    return rows, reading


def initials(shown: str, name: str = "") -> str:
    title = f' title="{name}"' if name else ""
    return f'<div class="initials" style="line-height: 42px"{title}>\n{shown}\n        </div>'
