"""Compare what requirements.lock names with the advisories of OSV; exit 1 where one applies.

Where the advisories cannot be reached nothing is audited, which is said, and is no failure: the
machine that lands a change may be cut off. `--required` makes it one.
"""

import socket
import subprocess
import sys

ADVISORIES = ("api.osv.dev", 443)
PATIENCE = 5.0  # seconds
AUDIT = ["pip-audit==2.10.1", "--vulnerability-service=osv", "--no-deps", "--disable-pip"]


def main() -> int:
    try:
        socket.create_connection(ADVISORIES, PATIENCE).close()
    except OSError as error:
        print(f"not audited: {ADVISORIES[0]} cannot be reached ({error})", file=sys.stderr)
        return int("--required" in sys.argv)
    command = [sys.executable, "-m", "uv", "tool", "run", *AUDIT, "-r", "requirements.lock"]
    return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main())
