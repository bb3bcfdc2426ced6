"""Draw the layers that tests/test_walls.py states: `python docs/draw_layers.py`, into docs/images/layers.svg."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "images" / "layers.svg"
WIDTH, ROW, GAP, PAD = 460, 34, 8, 12


def layers(name: str) -> tuple[tuple[str, ...], ...]:
    """The constant ``name`` of the test, from the ground up."""
    tree = ast.parse((ROOT / "tests" / "test_walls.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == [name]:
            found: tuple[tuple[str, ...], ...] = ast.literal_eval(node.value)
            return found
    raise LookupError(name)


def drawing() -> str:
    """The drawing as SVG: the highest layer on top, one row each."""
    blocks = (("coinfer_ray", layers("LAYERS"), "#e8f1f8", "#2b6a99"),)
    blocks += (("coinfer_kernels", layers("KERNEL_LAYERS"), "#eaf5ec", "#2f7d4f"),)
    parts: list[str] = []
    y = 0
    for title, rows, fill, stroke in blocks:
        height = 30 + len(rows) * (ROW + GAP) + PAD - GAP
        parts.append(
            f'<rect x="1" y="{y + 1}" width="{WIDTH - 2}" height="{height}" rx="9" fill="{fill}" stroke="{stroke}"/>'
        )
        parts.append(f'<text x="{PAD}" y="{y + 21}" font-weight="bold" fill="{stroke}">{title}</text>')
        for number, rooms in enumerate(reversed(rows)):
            top = y + 30 + number * (ROW + GAP)
            box = (WIDTH - 2 * PAD - GAP * (len(rooms) - 1)) / len(rooms)
            for place, room in enumerate(rooms):
                x = PAD + place * (box + GAP)
                parts.append(
                    f'<rect x="{x:g}" y="{top}" width="{box:g}" height="{ROW}" rx="5" fill="#fff" stroke="{stroke}"/>'
                )
                parts.append(f'<text x="{x + box / 2:g}" y="{top + 22}" text-anchor="middle">{room}</text>')
        y += height + PAD
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - PAD + 2}" width="{WIDTH}" '
        'font-family="system-ui, sans-serif" font-size="15" fill="#16202b">'
    )
    return "\n".join([head, *parts, "</svg>", ""])


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(drawing())
