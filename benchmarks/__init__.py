"""What the claims of the documentation are measured by; each module is a command."""
