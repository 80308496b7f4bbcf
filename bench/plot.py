#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the figures of a benchmark as SVG: how near each case comes to the limit, over the bytes of a call. There is a
panel for each phase, with destinations out of the cache above and in the cache below."""

import argparse
import json
import math
from xml.sax.saxutils import escape

PHASES = ("decode", "speculative", "prefill", "gather")
PANEL_WIDTH, PANEL_HEIGHT = 330, 250
LEFT, TOP, GAP_X, GAP_Y, BOTTOM = 64, 78, 26, 56, 60
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d1f", "#7f3fbf", "#777777")


def bytes_text(count):
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:g} {name}"
    return f"{count:g} B"


class Plot:
    def __init__(self, cases, ratio):
        self.cases, self.ratio = cases, ratio
        self.phases = [phase for phase in PHASES if any(c["phase"] == phase for c in cases)]
        low = min(c["bytes"] for c in cases)
        high = max(c["bytes"] for c in cases)
        self.low, self.high = math.log2(low) - 0.8, math.log2(high) + 0.8
        # What is above is drawn at the upper edge.
        self.top = min(2.0, max(1.2, math.ceil(max(c[ratio]["median"] for c in cases) * 5) / 5))
        self.layouts = list(dict.fromkeys(c["layout"] for c in cases))
        self.parts = []

    def add(self, text):
        self.parts.append(text)

    def text(self, x, y, text, anchor="middle", size=12, extra=""):
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {extra}>'
                 f'{escape(text)}</text>')

    def panel(self, x0, y0, title, cases, first_column):
        def x(count):
            return x0 + (math.log2(count) - self.low) / (self.high - self.low) * PANEL_WIDTH

        def y(ratio):
            return y0 + PANEL_HEIGHT * (1 - min(ratio, self.top) / self.top)

        self.add(f'<rect x="{x0}" y="{y0}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" fill="#fafafa" '
                 'stroke="#888"/>')
        self.text(x0 + PANEL_WIDTH / 2, y0 - 8, title, size=13, extra='font-weight="bold"')
        for exponent in range(math.ceil(self.low), math.floor(self.high) + 1):
            if exponent % 4 == 0:
                at = x(2 ** exponent)
                self.add(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y0}" y2="{y0 + PANEL_HEIGHT}" stroke="#ddd"/>')
                self.text(at, y0 + PANEL_HEIGHT + 16, bytes_text(2 ** exponent), size=11)
        for fifth in range(round(self.top * 5) + 1):
            at = y(fifth / 5)
            self.add(f'<line x1="{x0}" x2="{x0 + PANEL_WIDTH}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
            if first_column:
                self.text(x0 - 8, at + 4, f"{fifth / 5:.1f}", anchor="end", size=11)
        self.add(f'<line x1="{x0}" x2="{x0 + PANEL_WIDTH}" y1="{y(1):.1f}" y2="{y(1):.1f}" stroke="#222" '
                 'stroke-width="1.5" stroke-dasharray="6 3"/>')
        for case in cases:
            number = self.layouts.index(case["layout"])
            ratio, colour = case[self.ratio], COLOURS[number % len(COLOURS)]
            # Layouts beside each other, as many cases have equally many bytes.
            at = x(case["bytes"]) + (number - (len(self.layouts) - 1) / 2) * 2.5
            fill = colour if case["aligned"] else "#fff"
            self.add(f'<g stroke="{colour}"><title>{escape(case["name"])}: {ratio["median"]:.2f}</title>'
                     f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(ratio["max"]):.1f}" y2="{y(ratio["min"]):.1f}" '
                     'stroke-opacity="0.4"/>'
                     f'<circle cx="{at:.1f}" cy="{y(ratio["median"]):.1f}" r="3" fill="{fill}" '
                     'fill-opacity="0.8"/></g>')

    def draw(self, title, subtitle):
        width = LEFT + len(self.phases) * (PANEL_WIDTH + GAP_X)
        rows = -(-(len(self.layouts) + 1) // 6)
        height = TOP + 2 * (PANEL_HEIGHT + GAP_Y) + BOTTOM + rows * 18 - 36
        self.add(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                 f'viewBox="0 0 {width} {height}" font-family="sans-serif" fill="#222">')
        self.add(f'<rect width="{width}" height="{height}" fill="#fff"/>')
        self.text(LEFT, 26, title, anchor="start", size=17, extra='font-weight="bold"')
        self.text(LEFT, 45, subtitle, anchor="start", size=11)
        for row, cold in enumerate((True, False)):
            y0 = TOP + row * (PANEL_HEIGHT + GAP_Y)
            for column, phase in enumerate(self.phases):
                cases = [c for c in self.cases if c["phase"] == phase and c["cold"] == cold]
                self.panel(LEFT + column * (PANEL_WIDTH + GAP_X), y0,
                           f"{phase}, {'cold' if cold else 'warm'} destination", cases, column == 0)
            middle = y0 + PANEL_HEIGHT / 2
            self.text(22, middle, "ratio to the limit", extra=f'transform="rotate(-90 22 {middle})"')
        legend = TOP + 2 * (PANEL_HEIGHT + GAP_Y)
        self.text(LEFT + (width - LEFT - GAP_X) / 2, legend - 16, "bytes of a call")
        for i, name in enumerate(self.layouts + ["not aligned"]):
            x, y = LEFT + i % 6 * 175, legend + 10 + i // 6 * 18
            colour, fill = ("#222", "#fff") if i == len(self.layouts) else (COLOURS[i % len(COLOURS)],) * 2
            self.add(f'<circle cx="{x + 5}" cy="{y - 4}" r="4" stroke="{colour}" fill="{fill}"/>')
            self.text(x + 15, y, name, anchor="start")
        self.add("</svg>")
        return "\n".join(self.parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", help="what the benchmark wrote")
    parser.add_argument("svg", help="the file to write")
    parser.add_argument("--ratio", default="library to memcpy", help="which ratio to draw (default: %(default)s)")
    parser.add_argument("--format", default="", help="the storage format, such as f32-to-f16 (default: plain copies)")
    options = parser.parse_args()
    with open(options.json, encoding="utf-8") as file:
        results = json.load(file)
    cases = [c for c in results["cases"] if options.ratio in c and c["format"] == options.format]
    if not cases:
        parser.error(f"{options.json} has no case with a ratio \"{options.ratio}\" and this format")
    subtitle = ", ".join(results["machine"][name] for name in ("processor", "caches") if name in results["machine"])
    title = f"libkvappend: {options.ratio}" + " (1 is as fast, more is faster; median, bars from min to max)"
    with open(options.svg, "w", encoding="utf-8") as file:
        file.write(Plot(cases, options.ratio).draw(title, subtitle))


if __name__ == "__main__":
    main()
