"""Hardware: profiles from spec sheets, limits for child processes, meters of what was really used. No torch here."""
