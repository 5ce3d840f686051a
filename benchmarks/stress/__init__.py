"""What one caller can do to others: heavy messages, random messages, and hours in minutes."""
