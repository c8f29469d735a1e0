"""The declaration of a study: typed values, checked when they are made, without torch."""
