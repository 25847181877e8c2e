"""Full-screen views. Their library (textual) is an extra and is imported when one is opened."""
