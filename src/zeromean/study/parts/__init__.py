"""What methods are made of beside zeromean's own verbs; one kind a file."""
