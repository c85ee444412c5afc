"""Let the interpreter given import what this one has installed, after its own: `python share.py OTHER_PYTHON`."""

import subprocess
import sys
import sysconfig
from pathlib import Path

ASK = "import sysconfig; print(sysconfig.get_path('purelib'))"

if __name__ == "__main__":
    own = Path(subprocess.run([sys.argv[1], "-c", ASK], capture_output=True, text=True, check=True).stdout.strip())
    shared = sysconfig.get_path("purelib")
    (own / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n", encoding="utf-8")
