"""Commands that reproduce what README and docs claim; not part of the installed package."""
