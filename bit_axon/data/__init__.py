"""From files of rows to token arrays: sources, formats, chat encoding, and the token cache."""
