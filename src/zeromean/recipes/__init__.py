"""The papers' tables as recipes: studies with the published numbers beside them."""
