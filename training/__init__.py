"""How the bundled weights and example pictures were made; not part of the installed package."""
