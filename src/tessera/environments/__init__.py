"""What a model does besides writing text: tools that it calls, and how it calls them."""
