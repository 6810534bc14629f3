"""Rows into the stream, as the command `tidemill produce` writes them."""
