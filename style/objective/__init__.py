"""What is minimised: statistics, losses, terms, and their value and gradient, by tiles where asked."""
