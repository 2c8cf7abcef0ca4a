"""What the gradient agents share: the learner, losses over pairs, policy gradients, value functions."""
