"""Explanations for people: a page whose words are shaded by their weight, and a table for the terminal (pure)."""

import html
from typing import Any

_HEAD = """<!doctype html>
<meta charset="utf-8">
<title>Explanations</title>
<style>
body { font: 15px/1.7 system-ui, sans-serif; color: #22303c; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
section { border-top: 1px solid #e3e8ed; padding: 1rem 0 }
h2 { font-size: 1.05rem; margin: 0 }
span { border-radius: 3px; padding: 0 2px }
.field { color: #6b7a89; font-size: .8rem; text-transform: uppercase; letter-spacing: .05em; margin: .6rem 0 0 }
.special { color: #6b7a89; font-size: .8rem }
</style>
"""


def page(papers: list[dict[str, Any]]) -> str:
    """Return the page; a word is the darker, the more weight it has within its field."""
    parts = [
        _HEAD,
        "<h1>Explanations</h1>",
        "<p>Shade: the weight of a word in the attention over its field, against the field's largest. Attention says "
        "what the network looked at, and not why it decided.</p>",
    ]
    for paper in papers:
        parts.append(f"<section><h2>{html.escape(paper['title'] or paper['id'])}</h2>")
        parts.append(f"<p>{html.escape(paper['id'])}: <b>{html.escape(answers(paper))}</b></p>")
        for name, field in paper["fields"].items():
            most = max((each["weight"] for each in field["words"]), default=0.0) or 1.0
            shown = " ".join(_word(each, most) for each in field["words"])
            parts.append(f'<p class="field">{html.escape(name)}</p><p>{shown}</p>')
        if "keywords" in paper:
            most = max((each["weight"] for each in paper["keywords"]), default=0.0) or 1.0
            shown = " ".join(_word({**each, "special": False}, most) for each in paper["keywords"])
            parts.append(f'<p class="field">keywords</p><p>{shown}</p>')
        parts.append("</section>")
    return "\n".join(parts) + "\n"


def _word(each: dict[str, Any], most: float) -> str:
    text, share = html.escape(each["word"]), each["weight"] / most
    kind = ' class="special"' if each["special"] else ""
    shade = f"background: rgba(47, 109, 178, {0.75 * share:.2f})" + ("; color: white" if share > 0.7 else "")
    return f'<span{kind} title="{each["weight"]:.4f}" style="{shade}">{text}</span>'


def answers(paper: dict[str, Any]) -> str:
    """Return the two most probable classes with their probabilities."""
    return ", ".join(f"{each['class']} {each['probability']:.2f}" for each in paper["answers"])


def terminal(papers: list[dict[str, Any]]) -> str:
    """Return a few lines per paper: answers, and the heaviest words of each field."""
    lines: list[str] = []
    for paper in papers:
        lines.append(f"{paper['id']}: {answers(paper)}   {paper['title'][:70]}")
        for name, field in paper["fields"].items():
            top = ", ".join(f"{each['word']} {each['weight']:.2f}" for each in field["top"])
            lines.append(f"  {name:<9} {top}")
        if "keywords" in paper:
            top = ", ".join(f"{each['word']} {each['weight']:.2f}" for each in paper["keywords"])
            lines.append(f"  keywords  {top}")
    return "\n".join(lines)
