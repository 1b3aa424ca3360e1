"""``python -m spex_mech``."""

from spex_mech.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
