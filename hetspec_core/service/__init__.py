"""What command line and dashboard call: submit runs, follow them, stop them, look at them."""
