"""Tasks: one typed record for each kind of result, so that every command serves all of them."""
