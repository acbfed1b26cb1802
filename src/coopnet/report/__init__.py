"""From the files of finished runs to tables, and from the tables alone to figures, web page and PDF.

`runs` and `lineage` read the runs' files, `tables` writes CSV, `frames` reads it back, `topics` has one module per
section (text, table, figure), `content` assembles them, and `page`, `pdf` and `markdown` lay them out.
"""
