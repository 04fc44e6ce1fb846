"""The command that writes the tables of the READMEs."""
