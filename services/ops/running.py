"""The stack that runs on this machine, as the commands find it: it leaves its addresses in a file."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".run" / "stack"
ENVIRONMENT_FILE = "environment.json"


def environment(folder: Path = FOLDER) -> dict[str, str]:
    """Return the environment variables of the stack that runs in `folder`; none if no stack does."""
    try:
        variables: dict[str, str] = json.loads((folder / ENVIRONMENT_FILE).read_text())
    except FileNotFoundError:
        return {}
    return variables
