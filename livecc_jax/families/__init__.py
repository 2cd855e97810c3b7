"""What a backbone family is, as plain data: pixel rules, chat pieces, names of weights, presets."""
