"""Entry point of ``python -m sparsedial``."""

from sparsedial.cli.main import main

if __name__ == "__main__":
    main()
