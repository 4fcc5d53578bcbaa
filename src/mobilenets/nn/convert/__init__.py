"""Other people's weights in: read, recognised, assembled, and proved against their source."""
