"""Who may open a vault: slots, roles, sealing."""
