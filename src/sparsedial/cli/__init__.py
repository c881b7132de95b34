"""The command line: parses arguments and shows progress and tables."""
