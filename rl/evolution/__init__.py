"""Search without gradients: formulas, stacked policies, and who plays whom."""
