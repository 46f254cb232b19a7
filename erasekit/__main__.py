"""`python -m erasekit`."""

from erasekit.cli.app import main

if __name__ == "__main__":
    main()
