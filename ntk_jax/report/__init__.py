"""From a result's plain data to a page, a table and a spreadsheet.

All of it reads the result alone, so a stored `report.json` makes it again.
"""

from ntk_jax.report.page import markdown
from ntk_jax.report.sheet import results_csv
from ntk_jax.report.tables import table

__all__ = ['markdown', 'results_csv', 'table']
