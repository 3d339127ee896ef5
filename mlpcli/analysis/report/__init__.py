"""A run as one page: ``contents.py`` gathers what it says, ``page.py`` sets it; the rest is what the browser runs."""
