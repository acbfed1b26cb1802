"""From the files of finished runs to tables, and from the tables alone to figures, web page and PDF."""
