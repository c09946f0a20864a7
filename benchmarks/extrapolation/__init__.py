"""Where it would go: hours, memory and money at the paper's scale, from what was counted and measured and what is assumed."""
