"""A recipe's results as a markdown page, for a folder of results."""

from __future__ import annotations

from collections.abc import Sequence

from zeromean.recipes.conditions import Conditions
from zeromean.recipes.side_by_side import Table, explanation, markdown
from zeromean.study.engine.results import Results
from zeromean.study.report import sections


def page(conditions: Conditions, results: Results, tables: Sequence[Table]) -> str:
    """Tables, how they came about, and what departs from what was published."""
    recipe, study = conditions.recipe, results.study
    (facts,) = results.infos.values()
    (section,) = sections(results)
    shown = "".join(f"- {sentence}\n" for sentence in section.conclusions)
    notes = "".join(f"- {note}\n" for note in recipe.notes) + ("\n" if recipe.notes else "")
    sessions = "; ".join(
        ", ".join(f"{name} {value}" for name, value in session.items())
        for session in results.sessions
    )
    return (
        f"# {recipe.title}\n\n{conditions.note}\n\n    {results.command}\n\n"
        f"Data: {facts.description}; {facts.split}. {study.seeds} seed(s){results.growth}.\n\n"
        f"{markdown(tables)}{explanation(tables)}\n\n{shown}\n{notes}Environment: {sessions}.\n"
    )
