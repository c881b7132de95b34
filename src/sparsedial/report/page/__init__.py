"""The HTML page: its sections and tables, its style sheet, its script and its content security policy."""
