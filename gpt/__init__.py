"""GPT, and the layers it shares with TRM."""
