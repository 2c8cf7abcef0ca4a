"""Trained policies for others: a model card, and the upload to the Hugging Face hub."""
