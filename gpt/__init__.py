"""GPT, and the layers it shares with TRM. Knows no mesh, no optimizer, no files."""
