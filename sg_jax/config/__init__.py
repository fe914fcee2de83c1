"""Every setting: its sections, how they are parsed, and what they build."""
