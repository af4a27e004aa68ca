"""Pin the newest versions that pyproject.toml allows; run by a fresh environment's own Python (``make lock``).

The lock is what plain pip installs and nothing else: no index, no local label of torch, so that each machine
gets the build made for it.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
# The version that the numbers in the documentation were measured with.
FIXED = ("torch==2.13.0",)
RUNNING = """\
# Pins for running a study, tested together. Made by `make lock` from pyproject.toml; do not edit by hand.
# torch has no local label, so that a machine gets the build made for it.
"""
DEVELOPING = """\
# Pins for running, clusters, tests and development: requirements.lock and what the extras add.
# Made by `make lock` from pyproject.toml; do not edit by hand.
"""


def freeze() -> str:
    """List what is installed as pins without local labels."""
    found = subprocess.run([*PIP, "freeze", "--exclude-editable"], check=True, capture_output=True, text=True)
    return "".join(f"{line.split('+')[0]}\n" for line in found.stdout.splitlines())


def main() -> None:
    """Install in two steps and pin after each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    subprocess.run([*PIP, "install", "--quiet", *project["dependencies"], *FIXED], check=True)
    running = freeze()
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    subprocess.run([*PIP, "install", "--quiet", *extras], check=True)
    (ROOT / "requirements.lock").write_text(RUNNING + running, encoding="utf-8")
    (ROOT / "requirements-dev.lock").write_text(DEVELOPING + freeze(), encoding="utf-8")


if __name__ == "__main__":
    main()
