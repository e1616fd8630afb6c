"""``python -m gifthorse``: the command line where its program is not on the path."""

from gifthorse.cli.main import main

if __name__ == "__main__":
    main()
