"""Pictures of every page, drawn anew: starts a site, fills it through its API, and writes docs/screens with its list.

python tools/screens.py [--out DIR] [--only TEXT] [--full-page]
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import django

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "winnow.settings")
    django.setup()
    # Not at the top: the demo's client, which fills the site, comes with models that want Django set up.
    importlib.import_module("tests.e2e.screens").main()
