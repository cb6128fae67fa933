"""Online learning: a served model updated with new rows, watched, and rolled back."""
