"""Reading container logs. The shim writes them (``zygote/stdio.py``); this package reads them."""
