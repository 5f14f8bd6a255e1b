"""Pictures of robots and maps, and the window that shows them."""
