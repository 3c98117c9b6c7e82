"""Networks and what stands around them: layout, text, one file per backbone."""
