"""What a notebook shows of a result in place of its repr: tables, and pictures before and after."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from html import escape
from typing import Any

from erasekit.reporting.table import Table

EDGE = 1400
"""Longest side of a picture, in pixels."""


def register() -> None:
    """Teach the running IPython, if there is one, to show results."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    html = shell.display_formatter.formatters["text/html"]
    html.for_type(Table, tables)
    html.for_type_by_name("erasekit.bench.records", "Measured", _measured)
    html.for_type_by_name("erasekit.bench.records", "Summary", _summary)
    html.for_type_by_name("erasekit.attacks.run", "Attacked", _attacked)


def tables(*shown: Table) -> str:
    """Tables as HTML that needs no script, each with its title and legend."""
    return "".join(_table(table) for table in shown)


def _table(table: Table) -> str:
    columns = table.shown("page")
    head = _row("th", (column.title("page") for column in columns))
    rows = [_row("td", (column.cell(row).text for column in columns)) for row in table.all_rows]
    legend = "".join(f"<div>{escape(line)}</div>" for line in table.legend)
    return f"<table><caption>{escape(table.title)}</caption>{head}{''.join(rows)}</table>{legend}"


def _row(tag: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in texts)}</tr>"


def _picture(image: Any) -> str:
    from erasekit.reporting.pictures import embedded

    shown = embedded(image, EDGE)
    return f'<img src="{shown.uri}" width="{shown.width}" height="{shown.height}">'


def _measured(measured: Any) -> str:
    from erasekit.reporting.pictures import before_after_sheet
    from erasekit.reporting.run_table import measures_tables

    return tables(*measures_tables(measured.as_dict())) + _picture(before_after_sheet(measured))


def _summary(summary: Any) -> str:
    from erasekit.reporting.bench_table import bench_tables

    return tables(*bench_tables(summary).values())


def _attacked(attacked: Any) -> str:
    from erasekit.reporting.attack_table import attack_sheet, attack_table

    return tables(attack_table([attacked.result])) + _picture(attack_sheet([attacked]))
