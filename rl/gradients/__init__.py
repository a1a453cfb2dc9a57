"""From losses to gradients: the estimators, the steps of an update, and the fast path by hand."""
