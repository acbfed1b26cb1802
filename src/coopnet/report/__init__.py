"""From the files of finished runs to tables, and from the tables alone to figures, web page and PDF.

`runs` and `lineage` read what runs left behind; `tables` writes the CSV files; `frames` reads them back; `sections`
says what they hold and `figures` draws it; `content` puts the sections together; `page` and `pdf` lay them out.
"""
