"""The exit codes of the command line. docs/command-line.md documents them."""

EXIT_INCOMPLETE = 1
"""The command has finished, and some trials have failed or are missing, or files are damaged."""
EXIT_USER_ERROR = 2
"""Nothing was done, because an argument, a file or the environment does not allow it."""
EXIT_INTERRUPTED = 130
"""The user pressed Ctrl-C. Finished trials are kept."""
EXIT_TERMINATED = 143
"""The process received SIGTERM. Finished trials are kept."""
EXIT_BROKEN_PIPE = 141
"""The program that reads stdout has ended, such as ``head``. It is the code of a process that SIGPIPE ended."""
