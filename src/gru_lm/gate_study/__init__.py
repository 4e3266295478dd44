"""What the gates of a trained model do."""
