"""The pictures and the page. They are made from the results alone."""
