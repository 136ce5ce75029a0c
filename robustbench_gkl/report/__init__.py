"""Tables, live displays and HTML pages. Imports no torch."""
