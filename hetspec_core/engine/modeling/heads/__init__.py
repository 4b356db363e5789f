"""What an algorithm puts around a backbone. `base` says what a head owes to those who decode and train."""
