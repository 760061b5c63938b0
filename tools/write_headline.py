"""Write the README's headline, its figure and its table, from the committed records.

    python tools/write_headline.py

The figure goes to book/_static/headline.png; the text between the two marks in README.md is
replaced. A test says when they are out of date.
"""

import matplotlib
import numpy as np

from modlib import figures, replacement, table_1, tables, three_attributes, twenty_attributes
from modlib.results import resolve
from modlib.studies import accuracies

START, END = "<!-- headline: tools/write_headline.py -->", "<!-- end of headline -->"


def headline_markdown() -> str:
    """The README's headline: one sentence and one table, in Markdown."""
    rows = three_attributes.published("celeba_cpu")
    measured, paper = accuracies(rows), three_attributes.paper_table()
    names = " | ".join(three_attributes.SHORT_NAMES.values())
    lines = [f"| | {names} | mean | paper's mean |",
             "|---|" + "--:|" * (len(three_attributes.TASKS) + 2)]
    for name, row in three_attributes.ROWS.items():
        cells = []
        for task in three_attributes.TASKS:
            values = measured.query("row == @name and task == @task").accuracy
            cells.append(tables.mean_and_spread(values) if task in row.tasks else "–")
        means = measured.query("row == @name").groupby("seed").accuracy.mean()
        cells.append(tables.mean_and_spread(means))
        cells.append(f"{np.mean(list(paper[name]['accuracy'].values())):.1f}")
        lines.append(f"| ({name}) {row.label} | " + " | ".join(cells) + " |")
    twenty = twenty_attributes.STUDY.published("celeba_cpu_20")
    of_twenty = f"{twenty_attributes.headline_sentence(twenty)} "
    return "\n\n".join([
        table_1.headline_sentence(rows),
        (of_twenty + replacement.headline_sentence(twenty)).rstrip(), "\n".join(lines)])


def replaced(readme: str) -> str:
    """The README with a fresh headline between its two marks."""
    before, rest = readme.split(START)
    return f"{before}{START}\n{headline_markdown()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    matplotlib.use("Agg")
    figures.use_style()
    ax = table_1.draw_headline(
        figures.new_axes(figsize=(7.6, 3.9)), three_attributes.published("celeba_cpu"))
    ax.figure.savefig(resolve("book/_static/headline.png"), dpi=150, metadata={"Software": None})
    path = resolve("README.md")
    path.write_text(replaced(path.read_text("utf8")), "utf8")
