"""The command line `hetspec-core`: one module per command, imported when the command is used."""
