"""The documentation site: copies pages with their links, generates the command line's page, checks what was built."""
