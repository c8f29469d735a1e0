"""The commands that need torch alone, and their modules; the others need the extra "study"."""

from __future__ import annotations

STANDALONE = {"run": "zeromean.cli.run", "explain": "zeromean.cli.explain"}
