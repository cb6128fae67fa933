"""Reports as HTML pages: one page, and templates that put a report's values into it."""
