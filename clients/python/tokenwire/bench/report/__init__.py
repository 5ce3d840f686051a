"""Results as HTML pages that need nothing else: no script, no network."""

from tokenwire.bench.report.comparison import comparison_page
from tokenwire.bench.report.page import page

__all__ = ["comparison_page", "page"]
