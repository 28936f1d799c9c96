"""How good the results are: correspondence, pictures, inversion and selection, with intervals."""
