"""Multi-task learning with channel scales: what the notebooks of this book run on."""
