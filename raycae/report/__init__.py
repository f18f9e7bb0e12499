"""Reading a study: pages, figures and tables."""
