"""Systems: networks with their training logic, and what they share."""
