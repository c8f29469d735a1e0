"""What an optimizer step costs with centring and without, measured on the user's own machine."""
