"""Contact sheet: the results of a search as one page that opens without a network."""

from __future__ import annotations

import base64

from twinlens.indexing.results import Results
from twinlens.report.templates import load_template


def render(asked: str, found: Results) -> str:
    """Render the page as HTML, pictures included; everything that comes from data is escaped.

    Args:
        asked: the query in words, for the heading.
        found: the answer.
    """
    pictures = [
        {
            "hit": hit,
            "source": f"data:image/jpeg;base64,{base64.b64encode(hit.thumbnail).decode()}",
            "caption": next((text for text in (*hit.captions, hit.caption_generated) if text), ""),
        }
        for hit in found.hits
    ]
    return load_template("sheet.html.j2").render(asked=asked, found=found, pictures=pictures)
