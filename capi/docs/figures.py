#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the figures of the guides: figures.py FOLDER writes them, and figures.py --check FOLDER compares."""

import os
import sys
from xml.sax.saxutils import escape

# A panel of its own, so that a figure can be read on a page of any colour.
STYLE = """
  .panel { fill: #ffffff; stroke: #c8ccd2; }
  text { fill: #1c2430; font: 13px system-ui, sans-serif; }
  .code { font: 13px ui-monospace, monospace; }
  .title { font-weight: 600; }
  .quiet { fill: #59636e; }
  rect.held { fill: #dbe2ea; stroke: #59636e; }
  rect.free { fill: #ffffff; stroke: #8b949e; }
  rect.new { fill: #ffd48a; stroke: #9a5b00; }
  rect.skipped { fill: #ffffff; stroke: #8b949e; stroke-dasharray: 3 3; }
  rect.index { fill: #d6f0de; stroke: #2c6e3f; }
  rect.scale { fill: #d9d3f5; stroke: #54438f; }
  .arrow { fill: none; stroke: #9a5b00; stroke-width: 1.5; }
  .follow { fill: none; stroke: #2c6e3f; stroke-width: 1.5; }
  .head { fill: #9a5b00; }
  .follows { fill: #2c6e3f; }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #161b22; stroke: #3d444d; }
    text { fill: #e6edf3; }
    .quiet { fill: #9ba5b0; }
    rect.held { fill: #343d48; stroke: #8b949e; }
    rect.free { fill: #161b22; stroke: #6e7681; }
    rect.new { fill: #7a4a00; stroke: #ffc46b; }
    rect.skipped { fill: #161b22; stroke: #6e7681; }
    rect.index { fill: #1d4a2b; stroke: #6fcf8b; }
    rect.scale { fill: #3b3266; stroke: #b3a4f0; }
    .arrow { stroke: #ffc46b; }
    .follow { stroke: #6fcf8b; }
    .head { fill: #ffc46b; }
    .follows { fill: #6fcf8b; }
  }
"""
LEGEND = {"new": "written by the run", "scale": "scale, written by the run", "held": "was there before",
          "free": "not written", "index": "index", "skipped": "padding, skipped"}
HEIGHT = 30


class Figure:
    def __init__(self, title):
        self.title, self.parts, self.used, self.width, self.height = title, [], [], 0, 0
        self.text(20, 28, title, "title")

    def reach(self, x, y):
        self.width, self.height = max(self.width, x), max(self.height, y)

    def text(self, x, y, words, kind="", anchor="start"):
        self.parts.append(f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')
        width = len(words) * (8 if kind == "code" else 7)
        self.reach(x + width / (2 if anchor == "middle" else 1) if anchor != "end" else x, y)

    def cells(self, x, y, contents, width=46):
        """A row of cells, each (words, kind). Gives the middle of each cell's upper edge."""
        tops = []
        for i, (words, kind) in enumerate(contents):
            left = x + i * width
            self.parts.append(f'<rect x="{left}" y="{y}" width="{width}" height="{HEIGHT}" class="{kind}"/>')
            if words:
                self.text(left + width / 2, y + 20, words, "code", "middle")
            if kind not in self.used:
                self.used.append(kind)
            tops.append((left + width / 2, y))
        self.reach(x + width * len(contents), y + HEIGHT)
        return tops

    def strip(self, x, y, parts):
        """Adjacent cells of different widths, each (words, kind, width, byte at which it begins)."""
        for words, kind, width, byte in parts:
            self.cells(x, y, [(words, kind)], width)
            self.text(x, y + HEIGHT + 16, byte, "quiet")
            x += width

    def arrow(self, start, end, kind="arrow"):
        """From the lower edge of a cell to the upper edge of another."""
        (x0, y0), (x1, y1) = start, (end[0], end[1] - 7)
        y0 += HEIGHT
        middle = (y0 + y1) / 2
        self.parts.append(f'<path d="M{x0} {y0} C{x0} {middle} {x1} {middle} {x1} {y1}" class="{kind}"/>')
        head = "head" if kind == "arrow" else "follows"
        self.parts.append(f'<path d="M{x1 - 4} {y1} L{x1 + 4} {y1} L{x1} {y1 + 7} Z" class="{head}"/>')

    def svg(self):
        x, y = 20, self.height + 24
        for kind in [kind for kind in LEGEND if kind in self.used]:
            self.parts.append(f'<rect x="{x}" y="{y}" width="16" height="16" class="{kind}"/>')
            self.text(x + 22, y + 13, LEGEND[kind], "quiet")
            x += 22 + 7 * len(LEGEND[kind]) + 20
        self.reach(x, y + 16)
        width, height = int(self.width + 20), int(self.height + 20)
        body = "\n".join("  " + part for part in self.parts)
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(self.title)}">\n'
                f"  <!-- SPDX-License-Identifier: Apache-2.0 -->\n  <style>{STYLE}  </style>\n"
                f'  <rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6" class="panel"/>\n'
                f"{body}\n</svg>\n")


def append():
    figure = Figure("One call writes the new K and V rows of every sample into its pages")
    figure.text(20, 68, "k_new, v_new", "code")
    figure.text(20, 86, "BF16", "quiet")
    new = figure.cells(160, 48, [(f"sample {b}", "new") for b in range(3)], 181)
    left, top, width, height = 160, 124, 544, 56
    figure.parts.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="8" class="scale"/>')
    figure.text(20, top + 33, "one launch", "quiet")
    figure.text(left + width / 2, top + 24, "rotate K by its position, find the row by the page table,", "", "middle")
    figure.text(left + width / 2, top + 44, "and store FP8, INT8, NVFP4 with scales, or the same bits", "", "middle")
    figure.text(20, 264, "k_cache", "code")
    figure.text(20, 294, "v_cache", "code")
    figure.text(20, 322, "FP8", "quiet")
    tops = []
    pages = [(("0", "held"), ("0", "new"), ("", "free"), ("", "free")), (("2", "held"),) * 3 + (("2", "new"),),
             (("0", "held"),) * 4, (("1", "held"), ("1", "held"), ("1", "new"), ("", "free"))]
    for page, rows in enumerate(pages):
        x = 160 + page * 140
        tops += figure.cells(x, 244, rows, 31)
        figure.cells(x, 274, rows, 31)
        figure.text(x + 62, 322, f"page {page}", "quiet", "middle")
    for sample, place in enumerate([1, 14, 7]):
        x = new[sample][0]
        figure.arrow(new[sample], (x, top))
        figure.arrow((x, top + height - HEIGHT), tops[place])
    return figure


def dense(order):
    """Two heads, four rows: a new row at position 2 for each head."""
    heads_outside = order == "BHSD"
    axes = "[B, H, L, D]" if heads_outside else "[B, L, H, D]"
    figure = Figure(f"Dense, {axes}: one sample's cache in memory, position 2")
    figure.text(20, 68, "k_new", "code")
    new = figure.cells(110, 48, [("h0", "new"), ("h1", "new")], 70)
    places = [(h, r) for h in range(2) for r in range(4)]
    if not heads_outside:
        places.sort(key=lambda place: place[1])
    figure.text(20, 150, "k_cache", "code")
    kinds = ["held", "held", "new", "free"]
    tops = figure.cells(110, 130, [(f"h{h} r{r}", kinds[r]) for h, r in places], 70)
    for h in range(2):
        figure.arrow(new[h], tops[places.index((h, 2))])
    strides = "strides {H·L·D, L·D, D} or all zero" if heads_outside else "strides {L·H·D, D, H·D}"
    figure.text(110, 184, strides, "quiet")
    return figure


def ring():
    figure = Figure("Ring of 6 rows with 2 sinks, position 10: row 2 + (10 − 2) mod 4 = 2")
    figure.text(20, 68, "k_new", "code")
    new = figure.cells(110, 48, [("10", "new")], 70)
    figure.text(20, 150, "k_cache", "code")
    held = [(str(position), "held") for position in (0, 1, 7, 8, 9)]
    tops = figure.cells(110, 130, held[:2] + [("10", "new")] + held[2:], 70)
    figure.arrow(new[0], tops[2])
    for row, (x, _) in enumerate(tops):
        figure.text(x, 178, f"row {row}", "quiet", "middle")
    figure.text(110, 204, "rows 0 and 1 stay; rows 2 to 5 are used again: position 10 replaces 6", "quiet")
    return figure


def paged():
    figure = Figure("Paged, rows packed: pages of 2 rows, a row of page ids for each sample")
    figure.text(20, 68, "page_table", "code")
    figure.cells(130, 48, [("3", "index"), ("0", "index"), ("-1", "index")])
    figure.text(280, 68, "sample 0", "quiet")
    figure.cells(360, 48, [("1", "index"), ("2", "index"), ("-1", "index")])
    figure.text(510, 68, "sample 1", "quiet")
    figure.text(20, 128, "k_new", "code")
    new = figure.cells(130, 108, [("10", "new"), ("11", "new"), ("12", "new"), ("20", "new")])
    figure.text(330, 128, "lengths 0 3 4, cache_offsets 1 2: positions 1 2 3 and 2", "quiet")
    figure.text(20, 230, "k_cache", "code")
    tops = []
    for page, rows in enumerate([(("11", "new"), ("12", "new")), (("", "held"), ("", "held")),
                                 (("20", "new"), ("", "free")), (("", "held"), ("10", "new"))]):
        tops += figure.cells(130 + page * 130, 210, rows)
        figure.text(130 + page * 130 + 46, 258, f"page {page}", "quiet", "middle")
    for token, place in enumerate([7, 0, 1, 4]):
        figure.arrow(new[token], tops[place])
    return figure


def gather():
    figure = Figure("Gather, rows packed: the rows of each sample come from its pages")
    figure.text(20, 68, "page_table", "code")
    figure.cells(130, 48, [("3", "index"), ("0", "index"), ("-1", "index")])
    figure.text(280, 68, "sample 0", "quiet")
    figure.cells(360, 48, [("1", "index"), ("2", "index"), ("-1", "index")])
    figure.text(510, 68, "sample 1", "quiet")
    figure.text(20, 130, "k_cache", "code")
    places = []
    for page, rows in enumerate([("11", "12"), ("20", "21"), ("", ""), ("9", "10")]):
        places += figure.cells(130 + page * 130, 110, [(row, "held") for row in rows])
        figure.text(130 + page * 130 + 46, 158, f"page {page}", "quiet", "middle")
    figure.text(20, 250, "k_out", "code")
    figure.text(470, 250, "lengths 0 4 6, from position 0 on", "quiet")
    tops = figure.cells(130, 230, [(row, "new") for row in ("9", "10", "11", "12", "20", "21", "0")])
    for row, place in enumerate([6, 7, 0, 1, 2, 3]):
        figure.arrow(places[place], tops[row])
    return figure


def move():
    figure = Figure("Move: the accepted tokens a, c and d after a prefix of two rows")
    figure.text(20, 68, "from_slots", "code")
    figure.cells(130, 48, [(slot, "index") for slot in ("14", "0", "1")])
    figure.text(290, 68, "slots", "code")
    figure.cells(340, 48, [(slot, "index") for slot in ("14", "15", "0")])

    def cache(y, label, page_3, page_0):
        figure.text(20, y + 20, "k_cache", "code")
        figure.text(20, y + 38, label, "quiet")
        return figure.cells(130, y, page_3) + figure.cells(340, y, page_0)

    held = [(row, "held") for row in ("0", "1", "a", "b", "c", "d")]
    before = cache(110, "before", held[:4], held[4:] + [("", "free")] * 2)
    after = cache(220, "after", held[:3] + [("c", "new")], [("d", "new"), held[5]] + [("", "free")] * 2)
    for source, target in [(2, 2), (4, 3), (5, 4)]:
        figure.arrow(before[source], after[target])
    figure.text(20, 278, "slot", "quiet")
    for slot, (x, _) in zip([12, 13, 14, 15, 0, 1, 2, 3], after):
        figure.text(x, 278, str(slot), "quiet", "middle")
    figure.text(222, 302, "page 3", "quiet", "middle")
    figure.text(432, 302, "page 0", "quiet", "middle")
    figure.text(20, 330, "After the move the sample has 5 rows. Its next row goes to slot 1.", "quiet")
    return figure


def csr():
    figure = Figure("Paged, CSR: all page ids in one array, and where each sample begins")
    figure.text(20, 68, "page_indptr", "code")
    starts = figure.cells(140, 48, [("0", "index"), ("2", "index"), ("3", "index")])
    figure.text(20, 148, "page_table", "code")
    ids = figure.cells(140, 128, [("2", "index"), ("0", "index"), ("1", "index")], 80)
    figure.arrow(starts[0], ids[0], "follow")
    figure.arrow(starts[1], ids[2], "follow")
    figure.text(400, 148, "sample 0: pages 2, 0; sample 1: page 1", "quiet")
    figure.text(20, 248, "k_cache", "code")
    tops = []
    for page, rows in enumerate([(("pos 2", "new"), ("", "free")), (("pos 0", "new"), ("", "free")),
                                 (("pos 0", "held"), ("pos 1", "new"))]):
        tops.append(figure.cells(140 + page * 170, 228, rows, 68))
        figure.text(140 + page * 170 + 68, 276, f"page {page}", "quiet", "middle")
    for entry, page in enumerate([2, 0, 1]):
        (left, y), (right, _) = tops[page]
        figure.arrow(ids[entry], ((left + right) / 2, y), "follow")
    return figure


def slots():
    figure = Figure("Slots: each token's row by its number, page · R + row, in pages of R = 2 rows")
    figure.text(20, 68, "tokens", "code")
    figure.cells(130, 48, [("t0", "new"), ("t1", "new"), ("t2", "skipped")])
    figure.text(20, 112, "slots", "code")
    numbers = figure.cells(130, 92, [("1", "index"), ("2", "index"), ("-1", "index")])
    figure.text(20, 196, "k_cache", "code")
    tops = []
    for page, rows in enumerate([(("", "held"), ("t0", "new")), (("t1", "new"), ("", "free"))]):
        tops += figure.cells(130 + page * 120, 176, rows)
        for row in range(2):
            figure.text(tops[-2 + row][0], 224, f"slot {2 * page + row}", "quiet", "middle")
    figure.arrow(numbers[0], tops[1])
    figure.arrow(numbers[1], tops[2])
    return figure


def lengths():
    figure = Figure("How many rows a sample has: three samples with 1, 3 and 2 rows")

    def rows(x, y, counts, pads=(0, 0, 0)):
        for b, (count, pad) in enumerate(zip(counts, pads)):
            contents = [("", "skipped")] * pad + [(f"{b}.{l}", "new") for l in range(count)]
            figure.cells(x, y + b * HEIGHT, contents + [("", "skipped")] * (3 - len(contents)))

    figure.text(20, 62, "PER_SAMPLE: lengths 1 3 2")
    rows(20, 74, [1, 3, 2])
    figure.text(230, 62, "FLAG_LEFT_PADS: left_pads 2 0 1")
    rows(230, 74, [1, 3, 2], [2, 0, 1])
    figure.text(470, 62, "FIXED: L_new = 3 each")
    rows(470, 74, [3, 3, 3])
    figure.text(20, 200, "PACKED: lengths 0 1 4 6 (cu_seqlens), of T = 7 tokens")
    packed = [(f"{b}.{l}", "new") for b, count in enumerate([1, 3, 2]) for l in range(count)]
    figure.cells(20, 212, packed + [("", "skipped")])
    return figure


def packs():
    figure = Figure("Packs: rows r0 and r1 of four elements in memory; r1 is new")

    def strip(y, label, order):
        figure.text(20, y + 20, label, "code")
        figure.cells(210, y, [(f"r{r}:{e}", "new" if r else "held") for r, e in order])

    strip(48, "pack 0", [(r, e) for r in range(2) for e in range(4)])
    strip(98, "pack 2", [(r, 2 * p + e) for p in range(2) for r in range(2) for e in range(2)])
    strip(148, "pack 1", [(r, e) for e in range(4) for r in range(2)])
    figure.text(90, 68, "[R, D]", "quiet")
    figure.text(90, 118, "[D/2, R, 2]", "quiet")
    figure.text(90, 168, "[D, R, 1]", "quiet")
    return figure


def row_656():
    figure = Figure("A row of 656 bytes: the codes of K, their scales, and V as it is")
    figure.strip(20, 74, [("512 codes, E4M3", "new", 260, "0"), ("s0", "scale", 40, "512"), ("s1", "scale", 40, ""),
                          ("s2", "scale", 40, ""), ("s3", "scale", 40, ""), ("64 BF16", "new", 130, "528")])
    for x, words in [(20, "k_cache"), (280, "k_scales"), (440, "v_cache")]:
        figure.text(x, 66, words, "code")
    figure.text(570, 120, "656", "quiet")
    return figure


def page_584():
    figure = Figure("A page of 2 rows with 584 bytes each: scales and a free byte at the end; row 0 is new")
    rows = [("448 codes, E4M3", "new", 170, "0"), ("64 BF16", "new", 90, "448"),
            ("row 1", "held", 170, "576"), ("row 1", "held", 90, "1024")]
    footer = [("s0 to s6", "scale", 90, "1152"), ("", "free", 20, ""), ("row 1", "held", 90, "1160"),
              ("", "free", 20, ""), ("to a multiple of 576", "free", 180, "1168")]
    figure.strip(20, 74, rows)
    figure.strip(20, 164, footer)
    for x, y, words in [(20, 66, "k_cache"), (190, 66, "v_cache"), (20, 156, "k_scales")]:
        figure.text(x, y, words, "code")
    figure.text(420, 210, "1728", "quiet")
    return figure


def page_132():
    figure = Figure("A page of 3 rows with 132 bytes each: scales at the end; row 1 is new")
    figure.strip(20, 74, [("row 0", "held", 130, "0"), ("128 codes, E4M3", "new", 150, "128"),
                          ("row 2", "held", 130, "256"), ("s0", "held", 46, "384"), ("s1", "scale", 46, "388"),
                          ("s2", "held", 46, "392")])
    figure.text(20, 66, "k_cache", "code")
    figure.text(430, 66, "k_scales", "code")
    figure.text(568, 120, "396", "quiet")
    return figure


def nvfp4():
    figure = Figure("NVFP4: the scales of 8 rows of a head, 2 groups (g0, g1) in a row; row r2 is new")

    def scales(y, label, order):
        figure.text(20, y + 20, label, "code")
        figure.cells(140, y, [(f"r{r}g{g}", "scale" if r == 2 else "held") for r, g in order])

    figure.text(20, 78, "codes of r2", "code")
    figure.strip(140, 58, [("8 bytes: g0", "new", 110, "0"), ("8 bytes: g1", "new", 110, "8")])
    scales(124, "LINEAR", [(r, g) for r in range(8) for g in range(2)])
    scales(174, "BY_FOUR_ROWS", [(4 * four + r, g) for four in range(2) for g in range(2) for r in range(4)])
    return figure


def row_scales():
    figure = Figure("A scale after the codes of each head: 2 heads of D codes; row 1 is new")
    parts = []
    for row, kinds in enumerate([("held", "held"), ("new", "scale")]):
        for head in range(2):
            begin = ["0", "D + 4", "2 · (D + 4)", "3 · (D + 4)"][2 * row + head]
            parts += [(f"row {row}, head {head}", kinds[0], 130, begin), ("s", kinds[1], 46, "")]
    figure.strip(20, 74, parts)
    figure.text(20, 66, "k_cache", "code")
    figure.text(150, 66, "k_scales", "code")
    figure.text(150, 120, "D", "quiet")
    return figure


FIGURES = {"append": append, "dense-bhsd": lambda: dense("BHSD"), "dense-bshd": lambda: dense("BSHD"), "ring": ring, "paged": paged,
           "gather": gather, "move": move,
           "csr": csr, "slots": slots, "lengths": lengths, "packs": packs, "row-656": row_656,
           "page-584": page_584, "page-132": page_132, "nvfp4": nvfp4, "row-scales": row_scales}


def main():
    folder = sys.argv[-1]
    stale = []
    for name, draw in FIGURES.items():
        path, drawn = os.path.join(folder, name + ".svg"), draw().svg()
        if sys.argv[1] != "--check":
            with open(path, "w", encoding="utf-8") as file:
                file.write(drawn)
            continue
        with open(path, encoding="utf-8") as file:
            if file.read() != drawn:
                stale.append(path)
    unknown = {name for name in os.listdir(folder) if name.endswith(".svg")} - {name + ".svg" for name in FIGURES}
    assert not stale and not unknown, f"not as figures.py draws them: {stale}, {unknown}"


if __name__ == "__main__":
    main()
