"""The report, tables, exports for other tools, the page of a comparison."""
