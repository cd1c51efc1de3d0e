"""Make `dvc plots` pages that open without a network.

DVC's own page loads Vega from a content delivery network and is blank without one. This writes a
page with Vega inside, as the library vl-convert carries it, and names it in `.dvc/config.local`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from twinlens.core.errors import TwinLensError, require_extra

DEFAULT: Any = None  # the bundle that sets window.vegaEmbed; the stubs want a string
PAGE = Path(".dvc/plots/offline.html")

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>TwinLens plots</title>
<script>{bundle}</script>
<style>body {{ font-family: system-ui, sans-serif; margin: 1.5rem }} .vega-embed {{ overflow-x: auto }}</style>
</head>
<body>
{{plot_divs}}
</body>
</html>
"""


def main() -> None:
    """Write the page and tell DVC of it.

    Raises:
        ExtraError: the library that carries Vega is not installed.
    """
    with require_extra("plots", "a page of plots that opens without a network"):
        import vl_convert

    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(TEMPLATE.format(bundle=vl_convert.javascript_bundle(DEFAULT)), encoding="utf-8")
    name = PAGE.relative_to(".dvc").as_posix()
    subprocess.run(["dvc", "config", "--local", "plots.html_template", name], check=True)


if __name__ == "__main__":
    try:
        main()
    except TwinLensError as error:
        sys.exit(f"offline_plots: {error}")
