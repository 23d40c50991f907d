"""Ways to compute a trained model's answers: one interface, several machines of arithmetic behind it."""
