"""How long Chromium takes to load a report with many thumbnails: `python -m benchmarks.report_load [report] [count]`.

The report is a finished one, by default `report/index.html`. Its gallery is repeated until it shows at least `count`
pictures, each made different by a comment in the file, so that no two share a decoded image. All galleries are opened.
Time is counted from the start of navigation to the end of the `load` event, five times, each in a new profile.
"""

from __future__ import annotations

import base64
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """<script>addEventListener('load', () => setTimeout(() => {
const [n] = performance.getEntriesByType('navigation');
document.title = `loaded ${n.loadEventEnd} ${document.images.length}`; }))</script>"""


def with_pictures(page: str, count: int) -> str:
    """The page with its first gallery repeated until it shows `count` different pictures."""
    page = page.replace("<details>", "<details open>")
    gallery = re.search(r'<article class="example">.*</article>', page, re.DOTALL)
    assert gallery, "the report has no gallery"
    times = -(-count // gallery[0].count("<img "))
    made = page[: gallery.start()] + gallery[0] * max(1, times) + page[gallery.end() :]
    numbers = iter(range(10**9))

    def another(found: re.Match[str]) -> str:
        jpeg = base64.b64decode(found[1]) + next(numbers).to_bytes(6, "big")  # past the end of the picture
        return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")

    return re.sub(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", another, made)


def main(report: str = "report/index.html", count: str = "1000") -> None:
    """Print the time of each load, and their median."""
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
    if browser is None:
        sys.exit("no Chromium here: `apt-get install chromium`")
    page = with_pictures(Path(report).read_text(encoding="utf-8"), int(count))
    seconds = []
    for _ in range(5):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "index.html"
            path.write_text(page.replace("</head>", SCRIPT + "</head>"), encoding="utf-8")
            flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--dump-dom"]
            done = subprocess.run(
                [browser, *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
            )
        found = re.search(r"<title>loaded ([0-9.]+) ([0-9]+)</title>", done.stdout)
        assert found, "the page did not finish loading"
        seconds.append(float(found[1]) / 1000)
        print(f"{int(found[2]):,} pictures, {len(page) / 1e6:.1f} MB: {seconds[-1]:.2f} s")
    print(f"median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
