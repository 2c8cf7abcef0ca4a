"""Models of the preferences that an agent learns from its duels."""
