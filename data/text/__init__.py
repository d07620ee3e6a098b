"""Text: tokens on disk, their batches, tokenizers and builders."""
