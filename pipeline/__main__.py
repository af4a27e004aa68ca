"""Run a verb: ``python -m pipeline VERB --help``."""

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
