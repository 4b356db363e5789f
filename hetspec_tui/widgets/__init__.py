"""HetSpec's own widgets. Their owners set what they show; they report actions of the user by messages."""
