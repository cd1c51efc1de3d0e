"""Move the cards of an old params.yaml into files of their own: `python tools/move_cards.py [params.yaml]`.

Cards stood in its sections `datasets`, `models` and `captioners`; each becomes `cards/<section>/<name>.yaml`, with the
comments above it, and its `licence` and `note` go under `about:`. What is left is written back to params.yaml. No file
that is there is written over: then nothing is moved.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

SECTIONS = ("datasets", "models", "captioners")
ABOUT = ("licence", "note")
KEY = re.compile(r"(?P<indent> *)(?P<key>[^\s#:'\"-][^:#]*):(?= |$)")
RULE = re.compile(r"# -{5,} \w+$")  # a heading: it goes with its section


def move(text: str) -> tuple[str, dict[str, str], list[str]]:
    """Cut an old params.yaml up.

    Returns:
        what is left of it; the cards by their path below `cards/`; what stood above the sections, as comments.
    """
    kept: list[str] = []
    cards: dict[str, list[str]] = {}
    above: list[str] = []
    section: str | None = None
    name, waiting = "", list[str]()  # comments that belong to what comes next
    for line in text.splitlines():
        found = KEY.match(line)
        if found and not found["indent"]:
            section = found["key"] if found["key"] in SECTIONS else None
            name = ""
            target = kept if section is None else above
            target += [comment for comment in waiting if section is None or comment.strip()]
            waiting = []
            if section is None:
                kept.append(line)
        elif section is None or not line.startswith(" ") or not line.strip():
            is_comment = not line.strip() or line.startswith("#")
            (waiting if is_comment else kept).append(line)
        elif line.lstrip().startswith("#"):
            waiting.append(line)
        elif found and len(found["indent"]) == 2:
            name = found["key"].strip()
            cards[f"{section}/{name}"] = [*(comment.strip() for comment in waiting if comment.strip())]
            waiting = []
            rest = line[found.end() :].strip()
            if rest:  # {a card: on one line}
                cards[f"{section}/{name}"] += yaml.safe_dump(yaml.safe_load(rest), sort_keys=False).splitlines()
        else:
            cards[f"{section}/{name}"] += [comment[4:] for comment in waiting] + [line[4:]]
            waiting = []
    kept += waiting
    left = re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in kept if not _is_rule_of_cards(line)).strip() + "\n")
    return left, {path: "\n".join(move_under_about(lines)) + "\n" for path, lines in cards.items()}, above


def move_under_about(lines: list[str]) -> list[str]:
    """Move a card's `licence` and `note`, wherever they stand, under `about:`."""
    moved: list[str] = []
    open_at: dict[int, int] = {}  # by indent, where the next line of an `about:` goes
    inside: int | None = None  # the indent of what is being moved, for the lines that go on with it
    for line in lines:
        indent = len(line) - len(line.lstrip())
        found = KEY.match(line)
        if inside is not None and line.strip() and indent > inside:
            place, shift = open_at[inside], "  "
        else:
            inside = None
            open_at = {at: where for at, where in open_at.items() if at <= indent or not found}
            if not (found and found["key"] in ABOUT):
                moved.append(line)
                continue
            inside = indent
            if indent not in open_at:
                moved.append(f"{' ' * indent}about:")
                open_at[indent] = len(moved)
            place, shift = open_at[indent], "  "
        moved.insert(place, shift + line)
        open_at = {at: where + (where >= place) for at, where in open_at.items()}
    return moved


def _is_rule_of_cards(line: str) -> bool:
    return bool(RULE.match(line)) and line.rsplit(maxsplit=1)[-1] in SECTIONS


def main(path: Path) -> str:
    """Move; returns what to tell.

    Raises:
        SystemExit: there is nothing to move, or a card would be written over.
    """
    left, cards, above = move(path.read_text(encoding="utf-8"))
    if not cards:
        sys.exit(f"{path} holds no cards: there is nothing to move")
    files = {path.parent / "cards" / f"{card}.yaml": text for card, text in cards.items()}
    there = [str(file) for file in files if file.exists()]
    if there:
        sys.exit(f"already there, and not written over: {', '.join(there)}; nothing was moved")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    path.write_text(left, encoding="utf-8")
    remarks = "".join(f"\n  {line}" for line in above)
    return (
        f"{len(files)} cards are in {path.parent / 'cards'} now; {path} has the settings."
        + (f"\nThese comments stood above all cards of a section, and were left out:{remarks}" if above else "")
        + "\nWhat several cards share can stand once, by `base:` (cards/README.md). Check it: python -m stages.validate"
    )


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "params.yaml")))
