"""What every test may rely on."""

from __future__ import annotations

import os

# Nothing here may reach for a hub, whatever the machine would allow.
os.environ["HF_HUB_OFFLINE"] = "1"
