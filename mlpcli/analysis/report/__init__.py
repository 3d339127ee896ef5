"""A run as one page: ``contents.py`` gathers the data, ``page.py`` makes the file, the rest runs in the browser."""
