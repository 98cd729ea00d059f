"""What a search or a grid has found: shown, written to its folder, sent to MLflow."""
