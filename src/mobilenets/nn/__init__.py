"""Plan to torch modules; other people's weights in."""
