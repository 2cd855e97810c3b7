"""Has a judge model compare two commentaries pairwise, in both orders."""
