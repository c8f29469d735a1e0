"""What an optimizer step costs with centering and without, measured on the user's own machine."""
