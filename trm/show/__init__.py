"""Solutions as text, pictures and pages."""
