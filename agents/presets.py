"""Settings proven for a task; the train script uses them unless a flag says otherwise.

Keys are (agent, environment); values are fields of the agent's config, and `num_envs`. They never depend on the seed.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[tuple[str, str], dict[str, Any]] = {}
