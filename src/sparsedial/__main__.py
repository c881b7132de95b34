"""``python -m sparsedial``."""

from sparsedial.cli import main

if __name__ == "__main__":
    main()
